//! The connection that the binlog comes over: packets on a socket, TLS, authentication. What the bytes mean is [`crate::wire`]'s.

pub mod auth;
pub mod connection;
pub mod packet;
