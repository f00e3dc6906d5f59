//! What was typed, turned into validated plans.
//!
//! `worker.yaml` becomes a [`WorkerConfig`]; each connector document, from a YAML file or from REST, becomes a
//! [`ConnectorSpec`]. Both are checked against a table of fields ([`spec`]), so that all problems are reported at once and an
//! unknown key is an error. Secrets stay placeholders until a plan is made ([`secrets`]).

pub mod connector;
pub mod secrets;
pub mod spec;
pub mod topic_log;
pub mod transforms;
pub mod worker;

pub use connector::{ConnectorSpec, ErrorPolicy, RestartPolicy, Tolerance};
pub use topic_log::{EmbeddedLogConfig, TopicLogConfig};
pub use transforms::TransformSpec;
pub use worker::WorkerConfig;
