//! What the engine asks of a database.

use std::{future::Future, hash::Hash, pin::Pin, sync::Arc, time::Duration};

use crate::{change::TableSchema, error::ConnectorError};

/// Schema (or database) and name of a table.
pub type TableName = (String, String);
/// The values of a key's columns, as the database's own SQL writes them.
pub type Key = Vec<String>;
/// Work in the background. Dropping it ends it.
pub type Work<T> = Pin<Box<dyn Future<Output = Result<T, ConnectorError>> + Send>>;

/// What a snapshot of the database sees.
pub trait Visibility: Clone + Send + Sync + 'static {
    /// What the stream says of a transaction.
    type Transaction: Clone + Eq + Hash + Send + Sync + 'static;
    /// Whether the snapshot certainly sees a transaction of the stream. What one snapshot sees, every snapshot sees that is taken
    /// after it.
    fn sees(&self, transaction: &Self::Transaction) -> bool;
}

/// A table at its present shape, with all that is needed to read it. Equal tables are read alike.
pub trait Table: PartialEq + Send + Sync + 'static {
    /// Its name.
    fn name(&self) -> TableName;
    /// Its schemas.
    fn schema(&self) -> &Arc<TableSchema>;
    /// Whether rows can be asked for by ranges of its key.
    fn is_chunkable(&self) -> bool;
}

/// Rows that were read, in the order of the key.
pub trait Rows: Send + 'static {
    /// How many.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes held.
    fn bytes(&self) -> usize;
    /// Writes the key of a row in the form that the stream's keys are told in ([`super::Told::Key`]).
    ///
    /// # Errors
    /// A key that can't be read.
    fn write_key(&self, index: usize, out: &mut Vec<u8>) -> Result<(), ConnectorError>;
    /// Keeps the rows that `keep` says, one for each row.
    fn retain(&mut self, keep: &[bool]);
}

/// The keys after one, up to and with another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// From the table's begin when there is none.
    pub after: Option<Key>,
    /// To the table's end when there is none.
    pub upto: Option<Key>,
}

/// What to read.
pub struct ChunkRequest<T> {
    /// The table.
    pub table: Arc<T>,
    /// Which keys of it.
    pub range: KeyRange,
    /// Most rows, from 1.
    pub rows: u32,
    /// No more rows when this many bytes were read.
    pub bytes: usize,
}

/// Rows of a table under one snapshot.
pub struct Chunk<D: Database> {
    /// The rows.
    pub rows: D::Rows,
    /// What the snapshot sees.
    pub visible: D::Visible,
    /// Everything that the snapshot sees is in the stream before this position.
    pub high: D::Position,
    /// Key of the last row.
    pub last_key: Option<Key>,
    /// No rows of the range follow.
    pub is_complete: bool,
}

/// A database, as far as its snapshot goes. It is cloned into background work.
///
/// Nothing here is called while an earlier call on the same connection is unfinished; a connection whose call failed or was dropped
/// is not used again.
pub trait Database: Clone + Send + Sync + 'static {
    /// A connection that reads.
    type Connection: Send + 'static;
    /// A table at its present shape.
    type Table: Table;
    /// Rows of it.
    type Rows: Rows;
    /// What a snapshot sees.
    type Visible: Visibility;
    /// A position of the stream.
    type Position: Ord + Clone + Send + Sync + 'static;
    /// What is stored of the snapshot that a table without a usable key was read under.
    type Seen;
    /// A table without a usable key, under one snapshot.
    type Whole: Send + 'static;

    /// Connects.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, ConnectorError>> + Send;
    /// Waits until every later snapshot sees all that the stream delivered, or will never deliver, before this run.
    fn settle(
        &self,
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), ConnectorError>> + Send;
    /// How many rows the server thinks that tables have; a table that it knows nothing of is left out.
    fn estimate(
        &self,
        connection: &mut Self::Connection,
        tables: &[TableName],
    ) -> impl Future<Output = Result<Vec<(TableName, u64)>, ConnectorError>> + Send;
    /// The last key of a table; `None` while it is empty.
    fn last_key(
        &self,
        connection: &mut Self::Connection,
        table: &Self::Table,
    ) -> impl Future<Output = Result<Option<Key>, ConnectorError>> + Send;
    /// The key of the row at `rows` (from 1) of a range; `None` when it has fewer.
    fn bound(
        &self,
        connection: &mut Self::Connection,
        request: &ChunkRequest<Self::Table>,
    ) -> impl Future<Output = Result<Option<Key>, ConnectorError>> + Send;
    /// Reads rows of a range from its begin, under a snapshot that is taken now. It may stop early, but not before the first row.
    fn read(
        &self,
        connection: &mut Self::Connection,
        request: &ChunkRequest<Self::Table>,
    ) -> impl Future<Output = Result<Chunk<Self>, ConnectorError>> + Send;
    /// Takes a snapshot for a whole table: the stream's transactions on it are either seen by it or not, exactly.
    fn open(
        &self,
        connection: Self::Connection,
        table: Arc<Self::Table>,
    ) -> impl Future<Output = Result<Self::Whole, ConnectorError>> + Send;
    /// Takes that snapshot again, a moment later.
    fn reopen(&self, whole: Self::Whole) -> impl Future<Output = Result<Self::Whole, ConnectorError>> + Send;
    /// What that snapshot sees.
    fn visible(whole: &Self::Whole) -> &Self::Visible;
    /// The next rows of a whole table; the last ones are complete.
    fn piece(
        &self,
        whole: Self::Whole,
    ) -> impl Future<Output = Result<(Self::Whole, Chunk<Self>), ConnectorError>> + Send;
    /// What to store of the snapshot that this piece is of.
    fn seen(piece: &Chunk<Self>) -> Self::Seen;
    /// Lets work go on while nobody polls it.
    fn spawn<T: Send + 'static>(work: Work<T>) -> Work<T>;
    /// Ready after this time.
    fn rest(time: Duration) -> Work<()>;
}
