//! HTTP/1.1 as a client speaks it here: one target, a few kept connections, TLS with ring.
//!
//! What a caller may rely on, and why it holds:
//!
//! - **What failed before a request existed is told apart from what failed after.** [`Failure::Unreachable`] means that no
//!   request left this process, [`Failure::Lost`] and [`Failure::TimedOut`] that one did and that its outcome is unknown.
//! - **Nothing secret is said.** Errors name scheme, host and port, never path, query, headers or bodies.
//! - **Everything is bounded.** Connecting and answering have deadlines, bodies have a size.
//!
//! In reading order: [`Target`] is a URL that was understood, [`Connector`] opens connections to it, [`Client`] sends requests.

mod client;
mod connect;
mod target;
mod trust;

pub use client::{Answer, Client, Failure, Limits};
pub use connect::{ConnectFailure, Connection, Connector};
pub use target::{Scheme, Target};
pub use trust::{SetupError, Trust, TrustConfig};
