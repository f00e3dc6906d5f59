//! A chunk as the pipeline visits it: reads (`r`).

use std::sync::Arc;

use rowstream_api::{Change, ChangeSet, ChangeView, ConnectorError, RecordError, ValueRef};

use super::chunk::ReadChunk;
use crate::{
    stream::{
        changes::{SourceNames, VERSION, signed},
        position::BinlogPosition,
    },
    table::connector_name,
};

/// The rows of a chunk.
pub struct SnapshotRows {
    /// The rows.
    pub chunk: ReadChunk,
    /// Names.
    pub names: Arc<SourceNames>,
    /// The stream's position when they are delivered.
    pub at: BinlogPosition,
    /// Microseconds since 1970-01-01.
    pub read_at_us: i64,
    /// Nothing of the snapshot was delivered before.
    pub begins_snapshot: bool,
    /// Nothing of the snapshot follows.
    pub ends_snapshot: bool,
}

impl SnapshotRows {
    /// Debezium's `source.snapshot` of the row at `index` of `n`.
    fn marker(&self, index: usize, n: usize) -> &'static str {
        let last = index + 1 == n && self.chunk.finished;
        if last && self.ends_snapshot {
            "last"
        } else if index == 0 && self.begins_snapshot {
            "first"
        } else if index == 0 && self.chunk.first {
            "first_in_data_collection"
        } else if last {
            "last_in_data_collection"
        } else {
            "true"
        }
    }
}

impl ChangeSet for SnapshotRows {
    fn len(&self) -> usize {
        self.chunk.len()
    }

    fn bytes(&self) -> usize {
        self.chunk.bytes()
    }

    fn visit(
        &self,
        visitor: &mut dyn FnMut(ChangeView<'_>) -> Result<(), RecordError>,
    ) -> Result<(), ConnectorError> {
        let plan = &self.chunk.plan;
        let n = self.chunk.len();
        for (index, row) in self.chunk.rows().enumerate() {
            let source = [
                ValueRef::str(VERSION),
                ValueRef::str(connector_name(self.names.flavour)),
                ValueRef::str(&self.names.server),
                ValueRef::Int(self.read_at_us.div_euclid(1000)),
                ValueRef::str(self.marker(index, n)),
                ValueRef::str(&plan.shape.database),
                ValueRef::Null,
                ValueRef::Int(self.read_at_us),
                ValueRef::Int(self.read_at_us.saturating_mul(1000)),
                ValueRef::str(&plan.shape.table),
                ValueRef::Int(0),
                ValueRef::Null,
                ValueRef::str(&self.at.file),
                ValueRef::Int(signed(self.at.offset)),
                ValueRef::Int(0),
                ValueRef::Null,
                ValueRef::Null,
            ];
            visitor(ChangeView {
                table: &plan.schema,
                change: Change::Read { after: &row },
                source: &source,
                timestamp_ms: self.read_at_us.div_euclid(1000),
                row_follows: false,
            })?;
        }
        Ok(())
    }
}
