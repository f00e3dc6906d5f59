-- The shop's own table. Most of its changes are nobody's business outside: where a parcel lies, who packed it.
CREATE TABLE orders (
    id bigint PRIMARY KEY,
    customer text NOT NULL,
    item text NOT NULL,
    status text NOT NULL DEFAULT 'placed', -- paid, packed, shipped, delivered
    shelf text,
    packed_by text,
    touched int NOT NULL DEFAULT 0
);
ALTER TABLE orders REPLICA IDENTITY FULL; -- so that an update shows whether the status changed
