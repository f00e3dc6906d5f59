//! The sink against a real PostgreSQL 15; each test in its own database.
//!
//! Records are read by a test decoder over owned values: it stands in for the encoding, never for the database.

#[cfg(test)]
mod exactness;
#[cfg(test)]
#[cfg(test)]
mod rows;
#[cfg(test)]
#[cfg(test)]
mod target;
#[cfg(test)]
mod types;
