//! The compiled way from one record schema into one target table, and the tables and columns made for it.
//!
//! A plan is made once per (value schema, key schema, target table). Making it checks every column against the
//! catalog, so that what can't work is an error that names table, column, both types and the mending SQL, before
//! anything is written. DDL commits at once in both servers, so it runs on a connection of its own while the task's own
//! transaction holds the fence.

use std::collections::BTreeSet;

use mysql_async::prelude::Queryable;
use rowstream_api::{
    ConnectorError, RecordError, Schema, ValueRef,
    table_sink::{Column, Origin, PlanRequest, RowPlan, SchemaChanges, Wanted, WriteMode, task::Changed},
};

use super::{
    apply::Failure,
    catalog::{KeyIndex, TargetColumn, TargetTable, read_table},
    encode::encode,
    fence::Fence,
    session,
    types::{Wire, collation, column_type, needs_length, route},
};
use crate::{
    connection::Connection,
    error::from_mysql,
    ident::{QuotedIdent, TableName},
    sink_config::{MySqlSinkPlan, NAME_CHARS_MAX},
};

/// InnoDB's limit on a key, and what is left of it for columns that are no text.
const KEY_BYTES_MAX: usize = 3_072 - 72;
/// Characters or bytes of a key column that the sink creates, when the key has few such columns.
const KEY_LENGTH_MAX: usize = 255;
const BYTES_PER_CHAR: usize = 4;
/// `ER_DUP_FIELDNAME`: somebody else added the column first.
const DUPLICATE_COLUMN: u16 = 1060;

/// One column of a plan.
#[derive(Debug)]
pub(crate) struct ColumnPlan {
    pub(crate) name: QuotedIdent,
    pub(crate) data: Column<Wire>,
    /// The value where it is assigned: `?` or a cast of it.
    pub(crate) assign: String,
    /// The value where it is compared.
    pub(crate) compare: String,
    /// The server compares it byte by byte.
    pub(crate) exact: bool,
    must_be_given: bool,
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
    /// `ON DUPLICATE KEY UPDATE` could hit another row than the key's: touched rows are deleted, then inserted plainly.
    pub(crate) replace: bool,
}

impl TablePlan {
    /// Whether an INSERT may leave out all but these columns, for its `ON DUPLICATE KEY UPDATE` part.
    pub(crate) fn may_leave_out_all_but(&self, columns: &[usize]) -> bool {
        let left_out = self.columns.iter().enumerate().filter(|(index, _)| !columns.contains(index));
        !self.replace && left_out.into_iter().all(|(_, column)| !column.must_be_given)
    }
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
    pub(crate) config: &'a MySqlSinkPlan,
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
        let append = self.config.records.write_mode == WriteMode::Append;
        let wanted = request.wanted(append && self.config.metadata_columns);
        check_names(&request.table, &wanted)?;
        let mut changed = Changed::default();
        let target = match read_table(&mut self.connection.conn, &request.table).await? {
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
        let sql = create_sql(table, wanted, collation(self.connection.server));
        if !self.config.create_tables {
            return Err(ConnectorError::config(
                "MYSQL_NO_TABLE",
                format!("table `{}` does not exist and `create_tables` is false", table.plain()),
            )
            .remedy(format!("{sql};")));
        }
        self.ddl(std::slice::from_ref(&sql)).await.map_err(|error| {
            let remedy = format!(
                "GRANT CREATE, ALTER, SELECT, INSERT, UPDATE, DELETE ON {}.* TO the sink's user, or run:\n{sql};",
                table.database
            );
            error.while_attempting(&format!("create table `{}`", table.plain())).remedy(remedy)
        })
    }

    async fn add(&mut self, table: &TableName, missing: &[&Wanted]) -> Result<(), ConnectorError> {
        // One statement a column: where two tasks meet, one of them finds its column there already.
        let statements: Vec<String> = missing
            .iter()
            .map(|w| {
                let ty = column_type(&w.schema, None);
                format!("ALTER TABLE {table} ADD COLUMN {} {ty} NULL", QuotedIdent::new(&w.name))
            })
            .collect();
        let names: Vec<&str> = missing.iter().map(|w| w.name.as_str()).collect();
        let remedy = format!("{};", statements.join(";\n"));
        if self.config.schema_changes == SchemaChanges::None {
            return Err(ConnectorError::config(
                "MYSQL_NO_COLUMN",
                format!(
                    "table `{}` lacks `{}` and `schema_changes` is `none`",
                    table.plain(),
                    names.join("`, `")
                ),
            )
            .remedy(remedy));
        }
        self.ddl(&statements).await.map_err(|error| {
            error
                .while_attempting(&format!("add `{}` to table `{}`", names.join("`, `"), table.plain()))
                .remedy(remedy)
        })
    }

    /// Under the fence: the task's own connection holds its row locked meanwhile.
    async fn ddl(&mut self, statements: &[String]) -> Result<(), ConnectorError> {
        let mut other = session::connect(self.config).await?;
        let conn = &mut self.connection.conn;
        conn.query_drop(session::begin(self.config)).await.map_err(from_mysql)?;
        self.fence.check(conn).await.map_err(Failure::into_error)?;
        for sql in statements {
            match other.conn.query_drop(sql).await {
                Err(mysql_async::Error::Server(error)) if error.code == DUPLICATE_COLUMN => {}
                result => result.map_err(from_mysql)?,
            }
        }
        conn.query_drop(session::commit()).await.map_err(from_mysql)
    }

    async fn reread(&mut self, table: &TableName) -> Result<TargetTable, ConnectorError> {
        read_table(&mut self.connection.conn, table).await?.ok_or_else(|| {
            ConnectorError::transient("MYSQL_NO_TABLE", format!("table `{}` vanished", table.plain()))
        })
    }
}

/// Names that fit, and that the server can tell apart.
fn check_names(table: &TableName, wanted: &[Wanted]) -> Result<(), ConnectorError> {
    let names = [table.database.bare(), table.table.bare()];
    let columns = || wanted.iter().map(|w| w.name.as_str());
    let fits = |name: &str| {
        !name.is_empty()
            && name.chars().count() <= NAME_CHARS_MAX
            && !name.ends_with(' ')
            && name.chars().all(|c| c != '\0' && c <= '\u{ffff}')
    };
    let remedy = "choose other names with the `table` setting, or rename the column with a transform";
    if let Some(name) = names.into_iter().chain(columns()).find(|name| !fits(name)) {
        return Err(ConnectorError::config(
            "MYSQL_NAME",
            format!(
                "the name `{name}` for table `{}` is none: expected 1 to {NAME_CHARS_MAX} characters of the basic \
                 plane, no space at the end",
                table.plain()
            ),
        )
        .remedy(remedy));
    }
    let mut seen = BTreeSet::new();
    match columns().find(|name| !seen.insert(name.to_lowercase())) {
        None => Ok(()),
        Some(name) => Err(ConnectorError::config(
            "MYSQL_NAME",
            format!("two columns for table `{}` are named `{name}` but for case", table.plain()),
        )
        .remedy(remedy)),
    }
}

/// Characters or bytes of each of so many columns of text or bytes in a key.
pub(crate) fn key_length(columns: usize) -> usize {
    (KEY_BYTES_MAX / BYTES_PER_CHAR / columns.max(1)).min(KEY_LENGTH_MAX)
}

fn create_sql(table: &TableName, wanted: &[Wanted], collation: &str) -> String {
    let lengths = wanted.iter().filter(|w| w.in_key() && needs_length(&w.schema)).count();
    let length = key_length(lengths);
    let column = |w: &Wanted| {
        let (ty, null) = match w.in_key() {
            true => (column_type(&w.schema, Some(length)), "NOT NULL"),
            false => (column_type(&w.schema, None), "NULL"),
        };
        format!("{} {ty} {null}", QuotedIdent::new(&w.name))
    };
    let mut parts: Vec<String> = wanted.iter().map(column).collect();
    let key: Vec<String> =
        wanted.iter().filter(|w| w.in_key()).map(|w| QuotedIdent::new(&w.name).to_string()).collect();
    if !key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    format!(
        "CREATE TABLE IF NOT EXISTS {table} ({}) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {collation}",
        parts.join(", ")
    )
}

fn compile(
    request: &PlanRequest<TableName>,
    wanted: Vec<Wanted>,
    target: &TargetTable,
    id: usize,
) -> Result<TablePlan, ConnectorError> {
    let table = &request.table;
    let mut problems =
        Problems { table, messages: Vec::new(), remedies: Vec::new(), code: "MYSQL_COLUMN_TYPE" };
    let names: BTreeSet<String> = wanted.iter().map(|w| w.name.to_lowercase()).collect();
    for left_out in target.columns.iter().filter(|c| c.must_be_given) {
        if !names.contains(&left_out.name.to_lowercase()) {
            problems.must_be_given(left_out);
        }
    }
    let key: BTreeSet<String> =
        wanted.iter().filter(|w| matches!(w.origin, Origin::Key(_))).map(|w| w.name.to_lowercase()).collect();
    let keys = key.len();
    let index = target.key_index(&key, &names);
    if keys > 0 && index == KeyIndex::Missing {
        problems.no_key(&key);
    }
    let mut columns = Vec::new();
    for wanted in wanted {
        let Some(column) = target.column(&wanted.name) else { continue };
        let is_key = matches!(wanted.origin, Origin::Key(_));
        if column.generated && !is_key {
            continue;
        }
        match route(&wanted.schema, &column.ty) {
            None => problems.column_type(&wanted, column),
            Some(wire) => columns.push(column_plan(wanted, wire, column, is_key)),
        }
    }
    problems.into_result()?;
    let inexact = columns.iter().take(keys).any(|column: &ColumnPlan| !column.exact);
    let replace = keys > 0 && (inexact || index == KeyIndex::AmongOthers);
    Ok(TablePlan { id, table: table.clone(), columns, keys, replace })
}

fn column_plan(wanted: Wanted, wire: Wire, column: &TargetColumn, is_key: bool) -> ColumnPlan {
    let wire = if matches!(wire, Wire::Char { .. }) { Wire::Char { key: is_key } } else { wire };
    ColumnPlan {
        name: QuotedIdent::new(&column.name),
        data: Column { name: wanted.name, origin: wanted.origin, schema: wanted.schema, wire },
        assign: if wire == Wire::Geometry { "CAST(? AS BINARY)".to_owned() } else { "?".to_owned() },
        compare: compare(wire, column),
        exact: column.ty.exact,
        must_be_given: column.must_be_given,
    }
}

fn compare(wire: Wire, column: &TargetColumn) -> String {
    match wire {
        Wire::Decimal { .. } if column.ty.name == "decimal" => {
            let (precision, scale) = (column.ty.precision.unwrap_or(65), column.ty.scale.unwrap_or(0));
            format!("CAST(? AS DECIMAL({precision},{scale}))")
        }
        Wire::Decimal { .. } => {
            format!("CAST(? AS {})", if column.ty.unsigned { "UNSIGNED" } else { "SIGNED" })
        }
        Wire::Date => "CAST(? AS DATE)".to_owned(),
        Wire::Time { digits } => format!("CAST(? AS TIME({digits}))"),
        Wire::Timestamp { digits } => format!("CAST(? AS DATETIME({digits}))"),
        Wire::Int
        | Wire::Float
        | Wire::Double
        | Wire::Text(_)
        | Wire::Char { .. }
        | Wire::Bytes
        | Wire::FixedBytes(_)
        | Wire::Bits
        | Wire::Geometry => "?".to_owned(),
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
        let needed = column_type(&wanted.schema, None);
        let meaning = wanted.schema.name().map_or_else(|| format!("{:?}", wanted.schema.ty()), str::to_owned);
        self.messages.push(format!(
            "column `{}` of table `{}` is `{}`, which can't hold the records' {meaning} without loss; expected \
             `{needed}`",
            column.name,
            self.table.plain(),
            column.display
        ));
        let name = QuotedIdent::new(&column.name);
        self.remedies.push(format!("ALTER TABLE {} MODIFY COLUMN {name} {needed};", self.table));
    }

    fn must_be_given(&mut self, column: &TargetColumn) {
        self.code = "MYSQL_NOT_NULL_COLUMN";
        self.messages.push(format!(
            "column `{}` of table `{}` is NOT NULL without a default, and the records do not have it",
            column.name,
            self.table.plain()
        ));
        let name = QuotedIdent::new(&column.name);
        self.remedies
            .push(format!("ALTER TABLE {} MODIFY COLUMN {name} {} NULL;", self.table, column.display));
    }

    fn no_key(&mut self, key: &BTreeSet<String>) {
        self.code = "MYSQL_NO_KEY";
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
