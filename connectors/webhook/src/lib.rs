//! The webhook sink: every record of its topics is POSTed to one URL, signed, with an id that never changes.
//!
//! What a receiver may rely on, and why it holds:
//!
//! - **Each record arrives at least once, under one id.** A record's offset is committed only when a 2xx answered it or
//!   it was refused (`completed`); until then it is sent again, after a crash too, with the same `webhook-id` and the
//!   same body, because both are pure functions of the record and its place in the log (`sign`, [`body`]). A receiver that
//!   remembers ids sees each event once: *effectively once*.
//! - **Order per key.** At most one request per key is in flight, and the next starts only when the one before it is
//!   delivered or refused (`lanes`). Keys are delivered in parallel.
//! - **A bad record stops only its key.** It is retried on its own (`retry`) and, when its attempts are used up, refused: the
//!   connector's error policy decides. An endpoint that can't be reached at all is nobody's fault: the whole task waits
//!   and no record is refused (`pace`).
//! - **It is us.** Requests are signed as Standard Webhooks says, with several secrets while they are rotated.
//!
//! What a delivery's body looks like is said in [`body`].

pub mod body;
mod completed;
mod config;
mod error;
mod lanes;
mod pace;
mod preflight;
mod request;
mod retry;
mod sign;
mod sink;

pub use config::{BodyKind, Plan, RetryConfig, SigningConfig, Tombstones, WebhookConfig};
pub use sink::{WebhookSink, WebhookTask};
