//! The sink against a real PostgreSQL 15; each test in its own database.
//!
//! Records are read by a test decoder over owned values: it stands in for the encoding, never for the database.

mod exactness;
mod records;
mod rows;
mod speed;
mod target;
mod types;
