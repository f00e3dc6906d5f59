//! From a source's changes to the log's records, and back from records to what a sink reads.
//!
//! - [`encode`]: a visit to a batch of changes becomes Confluent-framed Avro records, in commit order, without a tree.
//! - [`decode`]: a batch of the log becomes records whose columns are read on demand.
//! - [`chain`]: the connector's transforms, between the two; [`chained`]: a source's records on their way through them.
//! - [`fit`]: whether transforms fit the schemas of what goes through them, before anything does.
//! - [`group`]: records that wait to be committed together.
//! - [`dead_letters`]: what the tolerance policy does with a record that can't be handled.
//! - [`tap`]: records on their way through the transforms, for whoever looks.
//! - [`partition`]: which partition a key belongs to, as Java clients compute it.

pub mod chain;
pub mod chained;
pub mod dead_letters;
pub mod decode;
pub mod encode;
pub mod fit;
pub mod group;
pub mod partition;
pub mod tap;
