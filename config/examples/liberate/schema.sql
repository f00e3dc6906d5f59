-- The monolith's database, MySQL or MariaDB. Everybody reads and writes everything.
CREATE TABLE customers (id int PRIMARY KEY, name varchar(80) NOT NULL, city varchar(40), version int NOT NULL DEFAULT 1);
CREATE TABLE invoices (id bigint PRIMARY KEY AUTO_INCREMENT, customer_id int NOT NULL, amount decimal(10, 2) NOT NULL, paid boolean NOT NULL DEFAULT false,
    version int NOT NULL DEFAULT 1);
