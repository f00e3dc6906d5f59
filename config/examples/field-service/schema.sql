-- What the order desk works with. `before` is needed to tell an installer that an order is no longer his: hence REPLICA IDENTITY FULL.
CREATE TABLE orders (
    id bigint PRIMARY KEY,
    customer text NOT NULL,
    address text NOT NULL,
    state text NOT NULL DEFAULT 'ordered', -- surveyed, scheduled, installed, active
    installer text, -- whose order it is
    appointment date,
    price numeric(10, 2) NOT NULL,
    internal_note text, -- nobody outside sees it
    version int NOT NULL DEFAULT 1
);
ALTER TABLE orders REPLICA IDENTITY FULL;
