//! The Avro format against its oracles: what Debezium wrote, what `apache-avro` writes, and bytes nobody wrote.

mod golden;
mod malformed;
mod oracle;
mod rows;
mod support;
