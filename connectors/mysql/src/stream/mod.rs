//! The stream: [`lexer`] (a statement's words), [`statement`] (what a statement in the binlog means), [`definition`] (what one defines), [`batch`] (what is handed over), [`assemble`] (events to batches and positions), [`xa`] (transactions that
//! wait for their decision), [`lookup`] (what is looked for in the binlog
//! beside the stream), [`reader`] (the thread that owns the connection), [`queue`](rowstream_api::queue) (between it and the
//! task), [`changes`] (a batch as the pipeline visits it).

pub mod assemble;
pub mod batch;
pub mod changes;
pub mod definition;
pub mod lexer;
pub mod lookup;
pub mod position;
pub mod reader;
pub mod statement;
pub mod xa;
