//! The manual's tables of types across servers: what each type of each source becomes in the table that each sink makes.
//!
//! That a source's rows are true of its server is its connector's test; here every sink is given all of them.

use std::{collections::BTreeMap, sync::Arc};

use rowstream::registry;
use rowstream_api::{
    ConfigErrors, Flushed, Gauges, Schema, SinkConnector, SinkRecord, SinkTask, StartReason, TaskContext,
    TopicPartition, ValueRef,
};
use rowstream_mysql::sink::MySqlSink;
use rowstream_postgres::sink::PostgresSink;
use rowstream_testkit::records::{Topic, int};
use serde_json::{Value, json};

use crate::support::{
    mysql::{MySqlDatabase, servers},
    postgres::Database,
    runtime,
};

/// The schemas of all types of all sources, each once, as of columns that allow NULL.
fn schemas() -> Vec<(String, Arc<Schema>)> {
    let mut schemas: Vec<(String, Arc<Schema>)> = Vec::new();
    for source in registry::source_types() {
        for row in &source.rows {
            let schema = row.schema.to_builder().optional().build();
            if !schemas.iter().any(|(_, known)| *known == schema) {
                schemas.push((format!("{} {}", source.server, row.sql), schema));
            }
        }
    }
    schemas
}

/// What the manual says that a sink makes of a schema.
fn told(connector: &str, schema: &Schema) -> String {
    let sinks = registry::sink_types();
    let sink = sinks.iter().find(|sink| sink.connector == connector).unwrap();
    (sink.column)(schema).sql
}

fn columns(schemas: &[(String, Arc<Schema>)]) -> Vec<(String, Arc<Schema>)> {
    let column = |(n, (_, schema)): (usize, &(String, Arc<Schema>))| (format!("c{n}"), Arc::clone(schema));
    std::iter::once(("id".to_owned(), int())).chain(schemas.iter().enumerate().map(column)).collect()
}

/// One row of NULLs through the real sink, which makes the table.
async fn deliver<S: SinkConnector>(config: Value, schemas: &[(String, Arc<Schema>)]) {
    let columns = columns(schemas);
    let columns: Vec<(&str, Arc<Schema>)> =
        columns.iter().map(|(n, s)| (n.as_str(), Arc::clone(s))).collect();
    let mut topic = Topic::new("made", 1, &columns);
    let errors = |errors: ConfigErrors| panic!("{errors}");
    let plan = S::validate(serde_json::from_value(config).unwrap()).unwrap_or_else(errors);
    let cx = TaskContext {
        connector: "types".into(),
        task: 0,
        gauges: Gauges::default(),
        log_id: "log".into(),
        start: StartReason::Connector,
    };
    let mut task = S::start(plan, cx).await.unwrap_or_else(|e| panic!("{e:?}"));
    task.open(std::slice::from_ref::<TopicPartition>(&topic.partition)).await.unwrap();
    let mut row = vec![ValueRef::Null; columns.len()];
    row[0] = ValueRef::Int(1);
    let records: Vec<SinkRecord> = vec![topic.create(row)];
    assert_eq!(task.put(records).await.unwrap_or_else(|e| panic!("{e:?}")), []);
    let flushed: Flushed = task.flush().await.unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(flushed.refused, []);
}

/// `CREATE TABLE` with what the manual says.
fn as_told(connector: &str, schemas: &[(String, Arc<Schema>)]) -> String {
    let columns = schemas.iter().enumerate().map(|(n, (_, s))| format!("c{n} {} NULL", told(connector, s)));
    format!("CREATE TABLE told (id int, {})", columns.collect::<Vec<_>>().join(", "))
}

/// Column and type of the rows `(table, column, type)`: those of both tables must be the same.
fn compare(server: &str, rows: Vec<Vec<Option<String>>>, schemas: &[(String, Arc<Schema>)]) {
    let mut types: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        let [column, ty] = row.try_into().unwrap();
        types.entry(column.unwrap()).or_default().push(ty.unwrap());
    }
    for (n, (source, _)) in schemas.iter().enumerate() {
        let [made, told] = types[&format!("c{n}")].as_slice() else {
            panic!("{server}, {source}: one is missing")
        };
        assert_eq!(made, told, "{server}, {source}");
    }
}

#[test]
fn every_type_of_every_source_gets_the_column_that_the_manual_says() {
    let schemas = schemas();
    assert!(schemas.len() > 50);
    let connection = |port: u16, database: &str, user: &str| json!({ "host": "127.0.0.1", "port": port, "database": database, "user": user, "tls": { "mode": "disable" } });

    let postgres = Database::new("types");
    let config = json!({ "connection": connection(postgres.port, &postgres.name, "postgres") });
    runtime().block_on(deliver::<PostgresSink>(config, &schemas));
    postgres.sql.run(&as_told(PostgresSink::NAME, &schemas));
    let sql = "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
                WHERE attrelid IN ('made'::regclass, 'told'::regclass) AND attnum > 1";
    compare("PostgreSQL", postgres.sql.rows(sql), &schemas);

    for (server, port) in servers() {
        let target = MySqlDatabase::on(port, "types");
        let mut config = json!({ "connection": connection(port, &target.name, "root") });
        config["offsets_database"] = json!(target.offsets());
        runtime().block_on(deliver::<MySqlSink>(config, &schemas));
        target.run(&target.name, &as_told(MySqlSink::NAME, &schemas));
        let sql = format!(
            "SELECT column_name, column_type FROM information_schema.columns WHERE table_schema = '{}' AND column_name <> 'id'",
            target.name
        );
        compare(server, target.texts(&sql), &schemas);
    }
}
