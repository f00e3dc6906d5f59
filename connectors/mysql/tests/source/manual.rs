//! The manual's table of types is true of the servers: of their binlog and of their catalog.

use std::{collections::BTreeSet, sync::Arc};

use rowstream_api::{Schema, SchemaBuilder, SchemaType, TypeEffect, TypeRow};
use rowstream_mysql::{connection::Flavour, types::manual::type_table};
use serde_json::json;

use crate::common::{Database, Drain, MARIADB, MYSQL};

/// What a type decides about a schema; the rest is the column's.
fn of_type(schema: &Schema) -> Arc<Schema> {
    let mut bare = SchemaBuilder::new(schema.ty().clone());
    for (name, value) in schema.parameters() {
        bare = bare.parameter(name, value);
    }
    match schema.name() {
        Some(name) => bare.name(name).build(),
        None => bare.build(),
    }
}

/// What the manual says a type becomes under a setting.
fn told<'a>(row: &'a TypeRow, setting: &str) -> &'a Arc<Schema> {
    let option = row.options.iter().find(|option| option.setting == setting);
    match option.map(|option| &option.effect) {
        Some(TypeEffect::Schema(schema)) => schema,
        Some(TypeEffect::Values(_)) | None => &row.schema,
    }
}

async fn manual_is_true(server: &str, flavour: Flavour) {
    let rows = type_table(flavour);
    let mut settings: BTreeSet<&str> =
        rows.iter().flat_map(|row| &row.options).map(|option| option.setting.as_str()).collect();
    assert!(!settings.is_empty());
    settings.insert("");
    // Texts and bytes between them: what a server tells of charsets, it tells by place.
    let column = |(i, row): (usize, &TypeRow)| {
        format!(
            "c{i} {} NULL, v{i} VARCHAR(3), b{i} VARBINARY(3), l{i} VARCHAR(3) CHARACTER SET latin1",
            row.sql
        )
    };
    let columns: Vec<String> = rows.iter().enumerate().map(column).collect();
    let mut db = Database::new(server).await;
    db.run(&format!("CREATE TABLE t (id INT PRIMARY KEY, {})", columns.join(", "))).await;
    db.run("INSERT INTO t (id) VALUES (0)").await;
    for (n, setting) in settings.iter().enumerate() {
        let mut extra = json!({ "snapshot": { "mode": "initial" } });
        if let Some((name, word)) = setting.strip_prefix("types.").and_then(|rest| rest.split_once(": ")) {
            extra["types"] = json!({ name: word });
        }
        let mut drain = Drain::start(db.plan(extra)).await;
        drain.until_count(n + 1).await;
        db.run(&format!("INSERT INTO t (id) VALUES ({})", n + 1)).await;
        drain.until_count(n + 2).await;
        let (read, streamed) = (&drain.events[n], &drain.events[n + 1]);
        assert_eq!((read.op.letter(), streamed.op.letter()), ("r", "c"));
        for event in [read, streamed] {
            let (op, fields) = (event.op.letter(), &event.table.value.fields()[1..]);
            assert_eq!(fields.len(), rows.len() * 4);
            for (fields, row) in fields.chunks(4).zip(&rows) {
                let told = told(row, setting);
                assert_eq!(of_type(&fields[0].schema), of_type(told), "{server} {} {setting} {op}", row.sql);
                let around: Vec<_> = fields[1..].iter().map(|field| field.schema.ty().clone()).collect();
                let expected = [SchemaType::String, SchemaType::Bytes, SchemaType::String];
                assert_eq!(around, expected, "{server}, behind {} {op}", row.sql);
            }
        }
    }
    db.remove().await;
}

#[tokio::test]
async fn the_manual_is_true_of_mysql() {
    manual_is_true(MYSQL, Flavour::MySql).await;
}

#[tokio::test]
async fn the_manual_is_true_of_mariadb() {
    manual_is_true(MARIADB, Flavour::MariaDb).await;
}
