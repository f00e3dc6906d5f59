//! The resolution rules, one line each, and what people are told.

use serde_json::{Value, json};

use crate::schema_registry::{
    Level,
    compatibility::{Incompatible, check},
};

fn record(fields: &Value) -> Value {
    json!({ "type": "record", "name": "R", "namespace": "n", "fields": fields })
}

fn field(schema: &Value) -> Value {
    record(&json!([{ "name": "f", "type": schema }]))
}

fn verdict(level: Level, old: &Value, new: &Value) -> Result<(), String> {
    for schema in [old, new] {
        apache_avro::Schema::parse(schema).unwrap();
    }
    check(level, new, [(3, old)]).map_err(|Incompatible { version, reason }| {
        assert_eq!(version, 3);
        reason
    })
}

#[track_caller]
fn says(level: Level, old: &Value, new: &Value, expected: &str) {
    let reason = verdict(level, old, new).unwrap_err();
    assert!(reason.starts_with(expected), "`{reason}` does not start with `{expected}`");
}

#[track_caller]
fn fine(level: Level, old: &Value, new: &Value) {
    assert_eq!(verdict(level, old, new), Ok(()));
}

#[test]
fn numbers_promote_one_way() {
    let ladder = ["int", "long", "float", "double"];
    for (i, narrow) in ladder.iter().enumerate() {
        for wide in &ladder[i + 1..] {
            let (old, new) = (field(&json!(narrow)), field(&json!(wide)));
            fine(Level::Backward, &old, &new);
            says(Level::Forward, &old, &new, &format!("field `f`: type changed from {narrow} to {wide}"));
            says(Level::Full, &old, &new, &format!("field `f`: type changed from {narrow} to {wide}"));
            fine(Level::Forward, &new, &old);
        }
    }
    fine(Level::Full, &field(&json!("string")), &field(&json!("bytes")));
    says(Level::Backward, &json!("int"), &json!("string"), "the schema: type changed from int to string");
    fine(Level::None, &json!("int"), &json!("string"));
}

#[test]
fn fields_come_with_a_default_or_not_at_all() {
    let one = record(&json!([{ "name": "a", "type": "int" }]));
    let bare = record(&json!([{ "name": "a", "type": "int" }, { "name": "b", "type": "int" }]));
    let defaulted = record(
        &json!([{ "name": "a", "type": "int" }, { "name": "b", "type": ["null", "int"], "default": null }]),
    );
    fine(Level::Full, &one, &defaulted);
    fine(Level::Full, &defaulted, &one);
    says(
        Level::Backward,
        &one,
        &bare,
        "new field `b` has no default (readers of the new schema cannot read data",
    );
    fine(Level::Forward, &one, &bare);
    fine(Level::Backward, &bare, &one);
    says(Level::Forward, &bare, &one, "removed field `b` has no default in version 3");
    let renamed = record(&json!([{ "name": "z", "aliases": ["a"], "type": "int" }]));
    fine(Level::Backward, &one, &renamed);
}

#[test]
fn unions_take_what_some_branch_takes() {
    let nullable = |of: &str| field(&json!(["null", of]));
    fine(Level::Backward, &field(&json!("int")), &nullable("int"));
    fine(Level::Backward, &nullable("int"), &nullable("long"));
    says(
        Level::Backward,
        &nullable("int"),
        &nullable("string"),
        "field `f`: type changed from int to string",
    );
    says(
        Level::Backward,
        &nullable("int"),
        &field(&json!("int")),
        "field `f`: type changed from [null, int] to int",
    );
    says(
        Level::Backward,
        &field(&json!(["null", "int", "string"])),
        &nullable("int"),
        "field `f`: type changed from [null, int, string] to [null, int]",
    );
}

#[test]
fn named_types_match_by_name_or_alias() {
    let fixed = |name: &str, size: u32| json!({ "type": "fixed", "name": name, "size": size });
    says(Level::Backward, &fixed("A", 4), &fixed("A", 8), "the schema: size changed from 4 to 8 bytes");
    says(Level::Backward, &fixed("A", 4), &fixed("B", 4), "the schema: name of the type changed from A to B");
    fine(Level::Backward, &fixed("x.A", 4), &fixed("y.A", 4));
    let alias = json!({ "type": "fixed", "name": "B", "aliases": ["A"], "size": 4 });
    fine(Level::Backward, &fixed("A", 4), &alias);
    let sort = |symbols: &[&str]| json!({ "type": "enum", "name": "E", "symbols": symbols });
    fine(Level::Backward, &sort(&["A"]), &sort(&["A", "B"]));
    says(Level::Forward, &sort(&["A"]), &sort(&["A", "B"]), "the schema: symbol `B` was added");
    says(Level::Backward, &sort(&["A", "B"]), &sort(&["A"]), "the schema: symbol `B` was removed");
    let defaulted = json!({ "type": "enum", "name": "E", "symbols": ["A"], "default": "A" });
    fine(Level::Backward, &sort(&["A", "B"]), &defaulted);
}

#[test]
fn paths_lead_to_the_difference() {
    let deep = |leaf: &str| {
        field(&json!({ "type": "array", "items": { "type": "map", "values": {
            "type": "record", "name": "Leaf", "fields": [{ "name": "x", "type": leaf }] } } }))
    };
    says(Level::Backward, &deep("int"), &deep("string"), "field `f[]{}.x`: type changed from int to string");
}

/// Debezium's shape: `before` defines the row type, `after` refers to it.
fn envelope(row: &Value) -> Value {
    json!({ "type": "record", "name": "Envelope", "namespace": "shop.public.orders", "fields": [
        { "name": "before", "type": ["null", { "type": "record", "name": "Value", "fields": row,
            "connect.name": "shop.public.orders.Value" }], "default": null },
        { "name": "after", "type": ["null", "Value"], "default": null },
        { "name": "op", "type": "string" },
        { "name": "ts_ms", "type": ["null", "long"], "default": null } ],
        "connect.version": 2, "connect.name": "shop.public.orders.Envelope" })
}

#[test]
fn debezium_envelopes_can_be_compared() {
    let id = json!({ "name": "id", "type": "int" });
    let one = envelope(&json!([id]));
    let price = |schema: Value| envelope(&json!([id, { "name": "price", "type": schema }]));
    says(Level::Backward, &one, &price(json!("double")), "new field `before.price` has no default");
    let nullable = envelope(&json!([id, { "name": "price", "type": ["null", "int"], "default": null }]));
    fine(Level::FullTransitive, &one, &nullable);
    says(
        Level::Backward,
        &price(json!("int")),
        &price(json!("string")),
        "field `before.price`: type changed from int to string",
    );
    // An old reference meets a new definition, and the other way round.
    let mut only_after = price(json!("string"));
    let fields = only_after["fields"].as_array_mut().unwrap();
    let definition = fields[0]["type"].clone();
    fields[1]["type"] = definition;
    fields.remove(0);
    says(
        Level::Backward,
        &price(json!("int")),
        &only_after,
        "field `after.price`: type changed from int to string",
    );
}

#[test]
fn recursive_types_end() {
    let list = |leaf: &str| {
        json!({ "type": "record", "name": "List", "fields": [
            { "name": "next", "type": ["null", "List"] }, { "name": "x", "type": leaf }] })
    };
    fine(Level::Backward, &list("int"), &list("long"));
    says(Level::Backward, &list("int"), &list("string"), "field `x`: type changed from int to string");
}

#[test]
fn what_rested_on_a_failed_branch_is_not_believed() {
    let sort_a = |space: &str, b: &Value, leaf: &str| {
        json!({ "type": "record", "name": "A", "namespace": space, "fields": [
            { "name": "b", "type": b }, { "name": "x", "type": leaf }] })
    };
    let sort_b =
        json!({ "type": "record", "name": "B", "fields": [{ "name": "back", "type": ["null", "A"] }] });
    let old = field(&sort_a("n", &sort_b, "int"));
    // The branch p.A fails at `x`, after B was found readable as p.B because A counted as readable as p.A.
    let branches = |of_second: &Value| {
        let second = sort_a("q", of_second, "int");
        field(&json!([sort_a("p", &sort_b, "string"), second]))
    };
    assert!(verdict(Level::Backward, &old, &branches(&json!("p.B"))).is_err());
    fine(Level::Backward, &old, &branches(&sort_b));
}

#[test]
fn only_transitive_levels_look_further_back() {
    let (int, long, string) = (field(&json!("int")), field(&json!("long")), field(&json!("string")));
    let versions = [(2, &long), (1, &string)];
    let new = field(&json!("double"));
    assert_eq!(check(Level::Backward, &new, versions), Ok(()));
    let clash = check(Level::BackwardTransitive, &new, versions).unwrap_err();
    assert_eq!(clash.version, 1);
    assert_eq!(check(Level::Forward, &int, versions), Ok(()));
    assert_eq!(check(Level::ForwardTransitive, &int, versions).unwrap_err().version, 1);
    assert_eq!(check(Level::FullTransitive, &long, versions).unwrap_err().version, 1);
}

#[test]
fn levels_are_read_in_any_case() {
    for level in Level::ALL {
        assert_eq!(Level::parse(&level.as_str().to_lowercase()).unwrap(), level);
    }
    assert!(Level::parse("SIDEWAYS").unwrap_err().to_string().contains("FULL_TRANSITIVE"));
}
