//! The compiled way from one record schema into one target table, and the tables and columns made for it.
//!
//! A plan is made once per (value schema, key schema, target table). Making it checks every column against the
//! catalog, so that what can't work is an error that names table, column, both types and the mending SQL, before
//! anything is written. DDL runs in its own transaction, under the fence like every other change.

use std::collections::BTreeSet;

use rowstream_api::{
    ConnectorError, RecordError, Schema, ValueRef,
    table_sink::{Column, Origin, PlanRequest, RowPlan, Wanted, task::Changed},
};

use super::{
    catalog::{KeyIndex, TargetColumn, TargetTable, read_table},
    encode::encode,
    fence::Fence,
    types::{Wire, column_type, route},
};
use crate::{
    connection::Connection,
    error::from_postgres,
    ident::{QuotedIdent, TableName},
    sink_config::{PostgresSinkPlan, SchemaChanges, WriteMode},
};

/// PostgreSQL cuts longer names in silence, so that two could become one.
const NAME_BYTES_MAX: usize = 63;

/// One column of a plan.
#[derive(Debug)]
pub(crate) struct ColumnPlan {
    pub(crate) name: QuotedIdent,
    pub(crate) data: Column<Wire>,
    /// What follows the value where it is assigned: nothing, or a cast.
    pub(crate) assign: String,
    /// What follows the value where it is compared: a cast to the column's own type, so that its index serves.
    pub(crate) compare: String,
}

/// A compiled table.
#[derive(Debug)]
pub struct TablePlan {
    /// Unique in the task; names the plan in the statement cache.
    pub(crate) id: usize,
    pub(crate) table: TableName,
    /// Key columns first.
    pub(crate) columns: Vec<ColumnPlan>,
    /// How many of `columns` are the key; 0 in append mode.
    pub(crate) keys: usize,
    /// Other constraints exist: touched rows are deleted before any is inserted, so that a batch may swap values.
    pub(crate) replace: bool,
}

impl RowPlan for TablePlan {
    type Table = TableName;
    type Wire = Wire;
    fn id(&self) -> usize {
        self.id
    }
    fn table(&self) -> &TableName {
        &self.table
    }
    fn keys(&self) -> usize {
        self.keys
    }
    fn columns(&self) -> impl Iterator<Item = &Column<Wire>> {
        self.columns.iter().map(|column| &column.data)
    }
    fn encode(
        wire: Wire,
        schema: &Schema,
        value: &ValueRef<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        encode(wire, schema, value, out)
    }
}

/// Makes plans, and tables and columns as far as the policy allows.
pub(crate) struct Planner<'a> {
    pub(crate) connection: &'a mut Connection,
    pub(crate) config: &'a PostgresSinkPlan,
    pub(crate) fence: &'a Fence,
}

impl Planner<'_> {
    /// Compiles a plan.
    ///
    /// # Errors
    /// Config errors with the SQL that mends what does not fit.
    pub(crate) async fn plan(
        &mut self,
        request: &PlanRequest<TableName>,
        id: usize,
    ) -> Result<(TablePlan, Changed), ConnectorError> {
        let records = &self.config.records;
        let metadata = records.write_mode == WriteMode::Append && self.config.metadata_columns;
        let wanted = request.wanted(metadata);
        check_names(&request.table, &wanted)?;
        let mut changed = Changed::default();
        let target = match read_table(&self.connection.client, &request.table).await? {
            Some(target) => target,
            None => {
                self.create(&request.table, &wanted).await?;
                changed.tables_created = 1;
                self.reread(&request.table).await?
            }
        };
        let missing: Vec<&Wanted> = wanted.iter().filter(|w| target.column(&w.name).is_none()).collect();
        let target = if missing.is_empty() {
            target
        } else {
            self.add(&request.table, &missing).await?;
            changed.columns_added = u32::try_from(missing.len()).unwrap_or(u32::MAX);
            self.reread(&request.table).await?
        };
        compile(request, wanted, &target, id).map(|plan| (plan, changed))
    }

    async fn create(&mut self, table: &TableName, wanted: &[Wanted]) -> Result<(), ConnectorError> {
        let sql = create_sql(table, wanted);
        if !self.config.create_tables {
            return Err(ConnectorError::config(
                "PG_NO_TABLE",
                format!("table `{}` does not exist and `create_tables` is false", table.plain()),
            )
            .remedy(sql));
        }
        self.ddl(&sql).await.map_err(|error| {
            let remedy =
                format!("GRANT CREATE ON SCHEMA {} TO the sink's role, or run:\n{sql}", table.schema);
            error.while_attempting(&format!("create table `{}`", table.plain())).remedy(remedy)
        })
    }

    async fn add(&mut self, table: &TableName, missing: &[&Wanted]) -> Result<(), ConnectorError> {
        let clauses: Vec<String> = missing
            .iter()
            .map(|w| {
                format!("ADD COLUMN IF NOT EXISTS {} {}", QuotedIdent::new(&w.name), column_type(&w.schema))
            })
            .collect();
        let sql = format!("ALTER TABLE {table} {};", clauses.join(", "));
        let names: Vec<&str> = missing.iter().map(|w| w.name.as_str()).collect();
        if self.config.schema_changes == SchemaChanges::None {
            return Err(ConnectorError::config(
                "PG_NO_COLUMN",
                format!(
                    "table `{}` lacks `{}` and `schema_changes` is `none`",
                    table.plain(),
                    names.join("`, `")
                ),
            )
            .remedy(sql));
        }
        self.ddl(&sql).await.map_err(|error| {
            error
                .while_attempting(&format!("add `{}` to table `{}`", names.join("`, `"), table.plain()))
                .remedy(sql)
        })
    }

    /// Under the fence, and one at a time: two tasks may meet a new table together.
    async fn ddl(&mut self, sql: &str) -> Result<(), ConnectorError> {
        let transaction = self.connection.client.transaction().await.map_err(from_postgres)?;
        self.fence.check(&transaction).await?;
        transaction
            .batch_execute(
                "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('rowstream sink ddl'))",
            )
            .await
            .map_err(from_postgres)?;
        transaction.batch_execute(sql).await.map_err(from_postgres)?;
        transaction.commit().await.map_err(from_postgres)
    }

    async fn reread(&self, table: &TableName) -> Result<TargetTable, ConnectorError> {
        read_table(&self.connection.client, table).await?.ok_or_else(|| {
            ConnectorError::transient("PG_NO_TABLE", format!("table `{}` vanished", table.plain()))
        })
    }
}

fn check_names(table: &TableName, wanted: &[Wanted]) -> Result<(), ConnectorError> {
    let names = [table.schema.bare(), table.table.bare()];
    let columns = wanted.iter().map(|w| w.name.as_str());
    match names.into_iter().chain(columns).find(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
        None => Ok(()),
        Some(name) => Err(ConnectorError::config(
            "PG_NAME_TOO_LONG",
            format!("the name `{name}` for table `{}` has not 1 to {NAME_BYTES_MAX} bytes", table.plain()),
        )
        .remedy("choose shorter names with the `table` setting, or rename the column with a transform")),
    }
}

fn create_sql(table: &TableName, wanted: &[Wanted]) -> String {
    let column = |w: &Wanted| format!("{} {}", QuotedIdent::new(&w.name), column_type(&w.schema));
    let mut parts: Vec<String> = wanted.iter().map(column).collect();
    let key: Vec<String> =
        wanted.iter().filter(|w| w.in_key()).map(|w| QuotedIdent::new(&w.name).to_string()).collect();
    if !key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    format!("CREATE TABLE IF NOT EXISTS {table} ({});", parts.join(", "))
}

fn compile(
    request: &PlanRequest<TableName>,
    wanted: Vec<Wanted>,
    target: &TargetTable,
    id: usize,
) -> Result<TablePlan, ConnectorError> {
    let table = &request.table;
    let mut problems = Problems { table, messages: Vec::new(), remedies: Vec::new(), code: "PG_COLUMN_TYPE" };
    for left_out in target.columns.iter().filter(|c| c.must_be_given) {
        if wanted.iter().all(|w| w.name != left_out.name) {
            problems.must_be_given(left_out);
        }
    }
    let key: BTreeSet<String> =
        wanted.iter().filter(|w| matches!(w.origin, Origin::Key(_))).map(|w| w.name.clone()).collect();
    let keys = key.len();
    let index = target.key_index(&key);
    if keys > 0 && index == KeyIndex::Missing {
        problems.no_key(&key);
    }
    let mut columns = Vec::new();
    for wanted in wanted {
        let Some(column) = target.column(&wanted.name) else { continue };
        if column.generated && !matches!(wanted.origin, Origin::Key(_)) {
            continue;
        }
        match route(&wanted.schema, &column.ty) {
            None => problems.column_type(&wanted, column),
            Some(route) => columns.push(ColumnPlan {
                name: QuotedIdent::new(&wanted.name),
                data: Column {
                    name: wanted.name,
                    origin: wanted.origin,
                    schema: wanted.schema,
                    wire: route.wire,
                },
                assign: if route.cast { assign_cast(column) } else { String::new() },
                compare: format!("::{}", column.ty.sql),
            }),
        }
    }
    problems.into_result()?;
    let replace = keys > 0 && index == KeyIndex::AmongOthers;
    Ok(TablePlan { id, table: table.clone(), columns, keys, replace })
}

/// To the type without its length, so that the assignment that follows refuses what an explicit cast would cut.
fn assign_cast(column: &TargetColumn) -> String {
    match column.ty.oid {
        1560 => "::pg_catalog.varbit".to_owned(),
        790 => "::pg_catalog.numeric::pg_catalog.money".to_owned(),
        _ => format!("::{}", column.ty.sql),
    }
}

/// Everything that does not fit, told at once.
struct Problems<'a> {
    table: &'a TableName,
    code: &'static str,
    messages: Vec<String>,
    remedies: Vec<String>,
}

impl Problems<'_> {
    fn column_type(&mut self, wanted: &Wanted, column: &TargetColumn) {
        let needed = column_type(&wanted.schema);
        let meaning = wanted.schema.name().map_or_else(|| format!("{:?}", wanted.schema.ty()), str::to_owned);
        self.messages.push(format!(
            "column `{}` of table `{}` is `{}`, which can't hold the records' {meaning} without loss; expected \
             `{needed}`",
            column.name,
            self.table.plain(),
            column.display
        ));
        let name = QuotedIdent::new(&column.name);
        self.remedies.push(format!(
            "ALTER TABLE {} ALTER COLUMN {name} TYPE {needed} USING {name}::{needed};",
            self.table
        ));
    }

    fn must_be_given(&mut self, column: &TargetColumn) {
        self.code = "PG_NOT_NULL_COLUMN";
        self.messages.push(format!(
            "column `{}` of table `{}` is NOT NULL without a default, and the records do not have it",
            column.name,
            self.table.plain()
        ));
        let name = QuotedIdent::new(&column.name);
        self.remedies.push(format!("ALTER TABLE {} ALTER COLUMN {name} DROP NOT NULL;", self.table));
    }

    fn no_key(&mut self, key: &BTreeSet<String>) {
        self.code = "PG_NO_KEY";
        let plain: Vec<&str> = key.iter().map(String::as_str).collect();
        let quoted: Vec<String> = key.iter().map(|name| QuotedIdent::new(name).to_string()).collect();
        self.messages.push(format!(
            "table `{}` has no unique index on exactly the records' key (`{}`), which upserts need",
            self.table.plain(),
            plain.join("`, `")
        ));
        self.remedies.push(format!("ALTER TABLE {} ADD PRIMARY KEY ({});", self.table, quoted.join(", ")));
    }

    fn into_result(self) -> Result<(), ConnectorError> {
        if self.messages.is_empty() {
            return Ok(());
        }
        Err(ConnectorError::config(self.code, self.messages.join("; ")).remedy(self.remedies.join("\n")))
    }
}
