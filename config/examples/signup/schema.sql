-- Who may log in: the user service's.
CREATE TABLE users (id text PRIMARY KEY, name text NOT NULL, email text NOT NULL, confirmed_at timestamptz NOT NULL DEFAULT clock_timestamp());
-- What is to be said, written in the transaction that makes it true. Its rows can be deleted in that same transaction: the event is in the WAL.
CREATE TABLE outbox (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregatetype text NOT NULL, -- what it is about: user
    aggregateid text NOT NULL, -- which one: the record's key, so that all events of one user stay in order
    type text NOT NULL, -- what happened: the topic
    payload jsonb NOT NULL
);
