//! Against `org.apache.kafka.connect.transforms.TimestampConverter`.

use rowstream_api::{SchemaType, UNAVAILABLE_HEADER, ValueRef};
use serde_json::{Value, json};

use crate::testing::{Owned, Table, apply, n, named, one, optional, problems, required, s, step, text};

fn table() -> Table {
    Table::new(
        "t",
        &[
            ("id", required(SchemaType::Int32)),
            ("unix", optional(SchemaType::Int64)),
            ("day", named(SchemaType::Int32, "io.debezium.time.Date")),
            ("at", named(SchemaType::Int64, "io.debezium.time.MicroTimestamp")),
            ("zoned", named(SchemaType::String, "io.debezium.time.ZonedTimestamp")),
            ("words", text()),
            ("time", named(SchemaType::Int64, "io.debezium.time.MicroTime")),
        ],
    )
}

fn row() -> Vec<Owned> {
    let zoned = s("2026-11-21T10:34:56.789123Z");
    vec![n(1), n(1_795_257_296_789), n(20_778), n(1_795_257_296_789_123), zoned, s("21.11.2026"), n(1)]
}

fn converted(field: &str, settings: &Value) -> Value {
    let mut settings = settings.clone();
    settings["fields"] = json!([field]);
    one(&mut step("timestamp", settings), &table().create(row())).value["after"][field].clone()
}

#[test]
fn every_kind_becomes_every_kind() {
    let to = |target: &str| json!({"target_type": target});
    for (field, target, expected) in [
        ("unix", "Timestamp", json!(1_795_257_296_789_i64)),
        ("at", "Timestamp", json!(1_795_257_296_789_i64)),
        ("zoned", "unix", json!(1_795_257_296_789_i64)),
        ("zoned", "Date", json!(20_778)),
        ("day", "unix", json!(1_795_219_200_000_i64)),
        ("at", "Time", json!(38_096_789)),
    ] {
        assert_eq!(converted(field, &to(target)), expected, "{field} to {target}");
    }
    let format = json!({"target_type": "string", "format": "yyyy-MM-dd HH:mm:ss.SSS"});
    assert_eq!(converted("at", &format), "2026-11-21 10:34:56.789");
    let read = json!({"target_type": "Date", "format": "dd.MM.yyyy"});
    assert_eq!(converted("words", &read), json!(20_778));
    let seconds = json!({"target_type": "unix", "unix_precision": "seconds"});
    assert_eq!(converted("zoned", &seconds), json!(1_795_257_296));
}

#[test]
fn schemas_nulls_and_refusals() {
    let mut to = step(
        "timestamp",
        json!({"fields": ["words", "unix"], "target_type": "Timestamp", "format": "dd.MM.yyyy"}),
    );
    let mut null = row();
    null[5] = ValueRef::Null;
    let seen = one(&mut to, &table().update(null, row()));
    assert_eq!(seen.value["before"]["words"], json!(null));
    assert_eq!(seen.field("words").name(), Some("org.apache.kafka.connect.data.Timestamp"));
    let mut bad = row();
    bad[5] = s("secret");
    let error = apply(&mut to, &table().create(bad)).unwrap_err();
    assert!(
        error.code == "VALUE_OUT_OF_RANGE"
            && error.message.contains("`words`")
            && !error.message.contains("secret")
    );
    let mut unsent = row();
    unsent[5] = s("__debezium_unavailable_value");
    let seen = one(&mut to, &table().create(unsent).unavailable(&["words"]));
    assert_eq!(
        (&seen.value["after"]["words"], seen.header(UNAVAILABLE_HEADER)),
        (&json!(null), Some("[\"words\"]"))
    );
    let mut time = step("timestamp", json!({"fields": ["time"], "target_type": "unix"}));
    assert_eq!(apply(&mut time, &table().create(row())).unwrap_err().code, "FIELD_TYPE");
    assert!(
        problems("timestamp", json!({"fields": ["a"], "target_type": "string"}))
            .contains("format: is needed")
    );
    let text = problems("timestamp", json!({"fields": [], "target_type": "unix", "format": "hh"}));
    assert!(text.contains("fields:") && text.contains("format: holds `h`"), "{text}");
}
