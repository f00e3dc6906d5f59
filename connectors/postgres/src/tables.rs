//! The plans of the tables that are being captured: made of the stream's own relations, with what the catalog adds.

use std::{collections::HashMap, sync::Arc};

use rowstream_api::{
    ConnectorError,
    snapshot::{Table as _, TableName},
};
use tokio_postgres::Client;

use crate::{
    catalog::{self, CapturedTable},
    connection::Connection,
    snapshot::{condition, table::SnapshotTable},
    source_config::SourcePlan,
    table::{self, TablePlan},
    wire::pgoutput::Relation,
};

/// The plans of the tables at their present shapes.
pub struct TablePlans {
    by_oid: HashMap<u32, Arc<TablePlan>>,
    sql: Option<Connection>,
}

impl TablePlans {
    /// Whether it was asked about this shape last.
    #[must_use]
    pub fn knows(&self, relation: &Relation) -> bool {
        self.by_oid.get(&relation.oid).is_some_and(|known| *known.relation == *relation)
    }

    /// None is known yet.
    #[must_use]
    pub fn new(sql: Connection) -> Self {
        Self { by_oid: HashMap::new(), sql: Some(sql) }
    }

    /// The plan of a shape; `None` for a table that is not captured. Asks the catalog when the shape is new.
    ///
    /// # Errors
    /// The server's.
    pub async fn plan_of(
        &mut self,
        relation: &Arc<Relation>,
        plan: &SourcePlan,
    ) -> Result<Option<Arc<TablePlan>>, ConnectorError> {
        if let Some(known) = self.by_oid.get(&relation.oid).filter(|known| known.relation == *relation) {
            return Ok(Some(Arc::clone(known)));
        }
        let (schema, name) = (relation.namespace.as_str(), relation.name.as_str());
        if !plan.tables.matches(schema, name) && !plan.is_signal(schema, name) {
            tracing::debug!(
                schema = relation.namespace,
                table = relation.name,
                "table is published but not captured"
            );
            return Ok(None);
        }
        let described = catalog::describe(self.client(plan).await?, relation.oid, Some(relation)).await?;
        let made = Arc::new(table::build(relation, &described, &plan.topic_prefix));
        self.by_oid.insert(relation.oid, Arc::clone(&made));
        Ok(Some(made))
    }

    /// A connection for questions, made anew when it was lost.
    ///
    /// # Errors
    /// The server's.
    pub async fn client(&mut self, plan: &SourcePlan) -> Result<&Client, ConnectorError> {
        let open = self.sql.take().filter(|sql| !sql.client.is_closed());
        let connection = match open {
            Some(connection) => connection,
            None => catalog::connect(&plan.connection).await?,
        };
        Ok(&self.sql.insert(connection).client)
    }

    /// The table of this name (`schema.table`), when it can be asked for, or why it can't.
    ///
    /// # Errors
    /// The server's.
    pub async fn named(
        &mut self,
        dotted: &str,
        condition: Option<&str>,
        plan: &SourcePlan,
    ) -> Result<Result<TableName, String>, ConnectorError> {
        let captured = catalog::captured_tables(self.client(plan).await?, &plan.tables).await?;
        let Some(table) = captured.iter().find(|table| table.name.plain() == dotted) else {
            return Ok(Err(NOT_CAPTURED.to_owned()));
        };
        let name = name_of(table);
        Ok(self.asked(&name, condition, plan).await?.map(|_| name))
    }

    /// The tables that are captured at present.
    ///
    /// # Errors
    /// The server's.
    pub async fn captured(&mut self, plan: &SourcePlan) -> Result<Vec<TableName>, ConnectorError> {
        let captured = catalog::captured_tables(self.client(plan).await?, &plan.tables).await?;
        Ok(captured.iter().map(name_of).collect())
    }

    /// How a table is read that was asked for, or why it can't be.
    ///
    /// # Errors
    /// The server's.
    pub async fn asked(
        &mut self,
        name: &TableName,
        condition: Option<&str>,
        plan: &SourcePlan,
    ) -> Result<Result<SnapshotTable, String>, ConnectorError> {
        let Some(table) = self.for_snapshot(name, plan).await? else {
            return Ok(Err(NOT_CAPTURED.to_owned()));
        };
        if !table.is_chunkable() {
            return Ok(Err(NO_KEY.to_owned()));
        }
        if let Some(condition) = condition
            && let Some(problem) = condition::problem(self.client(plan).await?, &table, condition).await?
        {
            return Ok(Err(problem));
        }
        Ok(Ok(SnapshotTable { condition: condition.map(str::to_owned), ..table }))
    }

    /// How a table is read by the snapshot; `None` when it is gone.
    ///
    /// # Errors
    /// The server's.
    pub async fn for_snapshot(
        &mut self,
        (schema, table): &TableName,
        plan: &SourcePlan,
    ) -> Result<Option<SnapshotTable>, ConnectorError> {
        let client = self.client(plan).await?;
        let captured = catalog::captured_tables(client, &plan.tables).await?;
        let found =
            captured.iter().find(|t| t.name.schema.bare() == *schema && t.name.table.bare() == *table);
        let Some(captured) = found else { return Ok(None) };
        let mut described = catalog::describe(client, captured.oid, None).await?;
        let published = catalog::published(client, &plan.publication, &captured.name).await?;
        if let Some(names) = &published.columns {
            described.columns.retain(|column| names.contains(&column.name));
        }
        let relation = Arc::new(catalog::relation_of(captured, &described));
        let of = Arc::new(table::build(&relation, &described, &plan.topic_prefix));
        let key = of.schema.key_columns.iter().filter_map(|i| relation.columns.get(*i));
        let types: Vec<u32> = key.map(|column| column.type_oid).collect();
        let key_types = catalog::type_names(client, &types).await?;
        let (partitioned, filter) = (captured.partitioned, published.filter);
        Ok(Some(SnapshotTable { plan: of, partitioned, filter, condition: None, key_types }))
    }
}

/// As the snapshot names it.
#[must_use]
pub fn name_of(table: &CapturedTable) -> TableName {
    (table.name.schema.bare().to_owned(), table.name.table.bare().to_owned())
}

const NOT_CAPTURED: &str = "it is not captured: there is no such table, or `tables` leaves it out";
const NO_KEY: &str = "it has no key to read it by while the stream goes on: give it a primary key, or a replica identity index";
