-- Something to capture, made once when the volume is new.
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id bigserial PRIMARY KEY, customer_id int NOT NULL, total numeric(12,2) NOT NULL, placed_at timestamptz NOT NULL DEFAULT now());
INSERT INTO customers SELECT i, 'Customer ' || i FROM generate_series(1, 100) i;
INSERT INTO orders (customer_id, total) SELECT 1 + i % 100, i FROM generate_series(1, 1000) i;
