//! The plans of the tables that are being captured: made of the stream's own table maps, with what the catalog adds.

use std::{collections::HashMap, sync::Arc};

use mysql_async::Conn;
use rowstream_api::{
    Chain, Class, ConnectorError,
    snapshot::{Table as _, TableName},
};

use crate::{
    catalog::{self, Catalog},
    columns,
    connection::Server,
    schema_change::structure::{self, Structure},
    snapshot::{condition, table::SnapshotTable},
    source_config::{RowMetadata, SourcePlan},
    stream::{batch::StreamTable, position::BinlogPosition, reader::StreamPlan},
    table::{self, TablePlan},
    wire::table_map::TableShape,
};

/// The plans of the tables at their present shapes.
pub struct TablePlans {
    by_name: HashMap<(String, String), Known>,
    catalog: Catalog,
    conn: Option<Conn>,
    server: Server,
    stream: StreamPlan,
}

struct Known {
    /// As the stream shows it.
    shape: TableShape,
    version: u64,
    plan: Arc<TablePlan>,
}

impl TablePlans {
    /// None is known yet.
    #[must_use]
    pub fn new(catalog: Catalog, (conn, server): (Conn, Server), stream: StreamPlan) -> Self {
        Self { by_name: HashMap::new(), catalog, conn: Some(conn), server, stream }
    }

    /// The plan of a shape. Asks the catalog when the shape is new.
    ///
    /// # Errors
    /// The server's, or a column that is not supported.
    pub async fn plan_of(
        &mut self,
        table: &StreamTable,
        plan: &SourcePlan,
    ) -> Result<Option<Arc<TablePlan>>, ConnectorError> {
        let name = (table.shape.database.clone(), table.shape.table.clone());
        if let Some(known) = self.by_name.get(&name)
            && (known.is_of(table) || table.shape.columns.is_empty())
        {
            return Ok(Some(Arc::clone(&known.plan)));
        }
        let shape = if table.shape.columns.is_empty() {
            // TRUNCATE: any shape will do, for the record has no row.
            self.describe(&name.0, &name.1, plan).await?.unwrap_or_else(|| table.shape.clone())
        } else if table.shape.is_named() || plan.row_metadata == RowMetadata::Full {
            self.describe(&name.0, &name.1, plan).await?;
            table.shape.clone()
        } else {
            let mut conn = self.connection(plan).await?;
            let on = (&mut conn, self.server);
            let shape = columns::verified(table, &mut self.catalog, on, &self.stream).await?;
            self.conn = Some(conn);
            shape
        };
        let made = Arc::new(table::build(&shape, &self.catalog, plan.types, &plan.topic_prefix)?);
        let known = Known { shape: table.shape.clone(), version: table.version, plan: Arc::clone(&made) };
        self.by_name.insert(name, known);
        Ok(Some(made))
    }

    /// How a table is read by the snapshot; `None` when it is gone.
    ///
    /// # Errors
    /// As [`Self::plan_of`].
    pub async fn for_snapshot(
        &mut self,
        database: &str,
        table: &str,
        plan: &SourcePlan,
    ) -> Result<Option<SnapshotTable>, ConnectorError> {
        let Some(shape) = self.describe(database, table, plan).await? else { return Ok(None) };
        let plan = Arc::new(table::build(&shape, &self.catalog, plan.types, &plan.topic_prefix)?);
        Ok(Some(SnapshotTable { plan, condition: None }))
    }

    /// The table of this name (`database.table`), when it can be asked for, or why it can't.
    ///
    /// # Errors
    /// As [`Self::plan_of`].
    pub async fn named(
        &mut self,
        dotted: &str,
        condition: Option<&str>,
        plan: &SourcePlan,
    ) -> Result<Result<TableName, String>, ConnectorError> {
        let mut problem = NOT_CAPTURED.to_owned();
        // Names may hold dots.
        for (at, _) in dotted.match_indices('.') {
            let (database, table) = (dotted.get(..at), dotted.get(at + 1..));
            let (Some(database), Some(table)) = (database, table) else { continue };
            let name = (database.to_owned(), table.to_owned());
            match self.asked(&name, condition, plan).await? {
                Ok(_) => return Ok(Ok(name)),
                Err(other) if other == NOT_CAPTURED => {}
                Err(other) => problem = other,
            }
        }
        Ok(Err(problem))
    }

    /// The tables that are captured at present.
    ///
    /// # Errors
    /// The server's.
    pub async fn captured(&mut self, plan: &SourcePlan) -> Result<Vec<TableName>, ConnectorError> {
        // The first time over a connection that may have been lost while nobody used it.
        if let Some(mut conn) = self.conn.take()
            && let Ok(captured) = catalog::captured_tables(&mut conn, &plan.tables).await
        {
            self.conn = Some(conn);
            return Ok(captured);
        }
        let mut conn = self.connection(plan).await?;
        let captured = catalog::captured_tables(&mut conn, &plan.tables).await?;
        self.conn = Some(conn);
        Ok(captured)
    }

    /// How a table is read that was asked for, or why it can't be.
    ///
    /// # Errors
    /// As [`Self::plan_of`].
    pub async fn asked(
        &mut self,
        (database, table): &TableName,
        condition: Option<&str>,
        plan: &SourcePlan,
    ) -> Result<Result<SnapshotTable, String>, ConnectorError> {
        if !plan.tables.matches(database, table) {
            return Ok(Err(NOT_CAPTURED.to_owned()));
        }
        let Some(table) = self.for_snapshot(database, table, plan).await? else {
            return Ok(Err(NOT_CAPTURED.to_owned()));
        };
        if !table.is_chunkable() {
            return Ok(Err(NO_KEY.to_owned()));
        }
        if let Some(condition) = condition {
            let mut conn = self.connection(plan).await?;
            let problem = condition::problem(&mut conn, &table, condition).await?;
            self.conn = Some(conn);
            if let Some(problem) = problem {
                return Ok(Err(problem));
            }
        }
        Ok(Ok(SnapshotTable { condition: condition.map(str::to_owned), ..table }))
    }

    /// Whether it was asked about this shape last.
    #[must_use]
    pub fn knows(&self, table: &StreamTable) -> bool {
        let name = (table.shape.database.clone(), table.shape.table.clone());
        let known = self.by_name.get(&name);
        known.is_some_and(|known| known.is_of(table) || table.shape.columns.is_empty())
    }

    /// Asks the catalog about a table, over a connection that is made anew when it was lost.
    ///
    /// # Errors
    /// The server's.
    pub async fn describe(
        &mut self,
        database: &str,
        table: &str,
        plan: &SourcePlan,
    ) -> Result<Option<TableShape>, ConnectorError> {
        if let Some(mut conn) = self.conn.take()
            && let Ok(shape) = self.catalog.describe(&mut conn, database, table).await
        {
            self.conn = Some(conn);
            return Ok(shape);
        }
        let mut conn = self.connection(plan).await?;
        let shape = self.catalog.describe(&mut conn, database, table).await?;
        self.conn = Some(conn);
        Ok(shape)
    }

    /// A table right after the statement that ends at `after`; `None` where that can't be shown, whatever the reason.
    pub async fn structure_after(
        &mut self,
        name: (&str, &str),
        after: &BinlogPosition,
        plan: &SourcePlan,
    ) -> Option<Structure> {
        // The first time over a connection that may have been lost while nobody used it.
        for _ in 0..2 {
            let asked = async {
                let mut conn = self.connection(plan).await?;
                let found =
                    structure::right_after(name, after, (&mut conn, self.server), &self.stream).await?;
                self.conn = Some(conn);
                Ok::<_, ConnectorError>(found)
            };
            match asked.await {
                Ok(found) => return found,
                Err(error) => {
                    tracing::debug!(error = %Chain(&error), "a table's structure is not known");
                    if error.class != Class::Transient {
                        return None;
                    }
                }
            }
        }
        None
    }

    /// The connection, or a new one.
    async fn connection(&mut self, plan: &SourcePlan) -> Result<Conn, ConnectorError> {
        match self.conn.take() {
            Some(conn) => Ok(conn),
            None => Ok(catalog::connect(&plan.connection).await?.0),
        }
    }
}

const NOT_CAPTURED: &str = "it is not captured: there is no such table, or `tables` leaves it out";
const NO_KEY: &str = "it has no key to read it by while the stream goes on: give it a primary key of numbers, texts, bytes or times";

impl Known {
    /// Whether the stream's table is still this one: by its names, or, while it has none, because nothing was defined since.
    fn is_of(&self, table: &StreamTable) -> bool {
        self.shape == table.shape && (self.shape.is_named() || self.version == table.version)
    }
}
