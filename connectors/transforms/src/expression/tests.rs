//! Expressions over records, as conditions.

use rowstream_api::{SchemaBuilder, SchemaType, ValueRef};
use serde_json::json;

use crate::{
    predicate,
    testing::{Made, Table, decimal, decimals, n, named, optional, required, s, text},
};

fn test(when: serde_json::Value, made: &Made) -> Result<bool, String> {
    let mut condition = predicate(&when).unwrap_or_else(|errors| panic!("{when}: {errors}"));
    condition.test(&made.record()).map_err(|error| format!("{}: {}", error.code, error.message))
}

fn holds(when: &str, made: &Made) -> bool {
    test(json!(when), made).unwrap_or_else(|error| panic!("{when}: {error}"))
}

fn refused(when: &str, made: &Made) -> String {
    match test(json!(when), made) {
        Ok(answer) => panic!("{when} gives {answer}"),
        Err(error) => error,
    }
}

fn problem(when: serde_json::Value) -> String {
    predicate(&when).err().unwrap_or_else(|| panic!("{when} is taken")).to_string()
}

fn row(id: i64, region: &str) -> Vec<ValueRef<'static>> {
    vec![n(id), s("Ada"), s(region), decimal("12.50")]
}

#[test]
fn an_event_is_seen_by_its_parts() {
    let table = Table::orders();
    let update = table.update(row(1, "south"), row(1, "north")).header("x", "1");
    for when in [
        "op == 'u' && after.region == 'north'",
        "before.region != after.region",
        "value.op == op && value.after.region == 'north'",
        "source.table == 'orders' && source.lsn > 76",
        "key.id == 1 && key == {'id': 1}",
        "topic == 'shop.public.orders'",
        "topic.startsWith('shop.') && topic_matches('shop\\\\.public\\\\..*')",
        "headers.x == '1' && headers['x'] == '1' && has(headers.x) && has_header('x') && !has_header('y')",
        "'x' in headers && size(headers) == 1",
        "timestamp == timestamp('1970-01-01T00:00:03Z')",
        "!is_tombstone && !is_tombstone()",
        "after['region'] == 'north' && after.`region` == 'north'",
        "after.amount == 12.5 && after.amount > 12 && after.amount < 12.51",
        "after.name.lowerAscii() == 'ada' && after.name.substring(1) == 'da' && 'a,b'.split(',').join('') == 'ab'",
        "has(after.name) && !has(after.nothing)",
        "before != after && size(after) == 4",
        "type(after.id) == int && string(after.id) == '1'",
        "after.name.matches('^A.a$') && matches(after.name, 'd') && !after.name.matches('^d') && after.name.matches(after.name)",
        "[after.id, 2].exists(x, x == 1) && [1, 2].map(x, x + after.id) == [2, 3]",
    ] {
        assert!(holds(when, &update), "{when}");
    }
    assert!(!holds("op == 'd'", &update));
}

#[test]
fn a_plain_record_is_its_own_after() {
    let made = Table::orders().plain(row(1, "north"));
    for when in [
        "after.region == 'north' && value.region == 'north'",
        "before == null && op == null && source == null",
        "!has(before.region)",
    ] {
        assert!(holds(when, &made), "{when}");
    }
    assert!(refused("before.region == 'x'", &made).contains("`before` is null"));
}

/// A delete has no `after`, an insert no `before`; `&&` and `||` decide without them where they can.
#[test]
fn what_is_null_is_said_by_name() {
    let table = Table::orders();
    let delete = table.delete(row(1, "north"));
    assert!(!holds("op != 'd' && after.region == 'north'", &delete));
    assert!(holds("after == null || after.region == 'x'", &delete));
    let error = refused("after.region == 'north'", &delete);
    assert!(
        error.starts_with("EXPRESSION_FAILED") && error.contains("`after` is null in this record"),
        "{error}"
    );
    let null = table.create(vec![n(1), ValueRef::Null, ValueRef::Null, ValueRef::Null]);
    assert!(holds("after.region == null && has(after.region)", &null));
    let error = refused("after.amount > 1.0", &null);
    assert!(error.contains("`>` does not work on (null_type, double)"), "{error}");
}

#[test]
fn tombstones_have_no_answer_to_what_looks_at_the_value() {
    let tombstone = Table::orders().tombstone(n(1));
    assert!(!holds("after.region == 'north'", &tombstone));
    assert!(!holds("op != 'd'", &tombstone));
    assert!(holds("key.id == 1", &tombstone));
    assert!(holds("is_tombstone || op != 'd'", &tombstone));
    assert_eq!(test(json!({"condition": "op == 'x'", "negate": true}), &tombstone), Ok(false));
}

/// Connect's `TopicNameMatches`, `HasHeaderKey` and `RecordIsTombstone`, each with `negate`.
#[test]
fn connects_predicates() {
    let table = Table::orders();
    let create = table.create(row(1, "north")).header("x", "");
    let tombstone = table.tombstone(n(1));
    for (when, on_create, on_tombstone) in [
        (json!({"topic_matches": "shop\\..*"}), true, true),
        (json!({"topic_matches": "shop"}), false, false),
        (json!({"topic_matches": "shop", "negate": true}), true, true),
        (json!({"has_header": "x"}), true, false),
        (json!({"is_tombstone": true}), false, true),
        (json!({"is_tombstone": "true", "negate": "true"}), true, false),
        (json!({"is_tombstone": false}), true, false),
    ] {
        assert_eq!(test(when.clone(), &create), Ok(on_create), "{when}");
        assert_eq!(test(when.clone(), &tombstone), Ok(on_tombstone), "{when}");
    }
}

#[test]
fn unknown_fields_are_named_with_the_known_ones() {
    let table = Table::orders();
    let create = table.create(row(1, "north"));
    let error = refused("op == 'd' && after.regoin == 'x'", &create);
    assert_eq!(
        error,
        "EXPRESSION_FIELD_UNKNOWN: `after.regoin` is not known; did you mean `region`? known are id, name, region, amount"
    );
    assert!(!holds("has(after.regoin) && after.regoin == 'x'", &create), "it asks first");
    assert!(
        !holds("topic == 'shop.public.other' && after.regoin == 'x'", &create),
        "it looks at other tables"
    );
    assert!(refused("topic != '' && after.regoin == 'x'", &create).contains("EXPRESSION_FIELD_UNKNOWN"));
}

#[test]
fn values_that_were_not_sent_are_no_values() {
    let made =
        Table::orders().update(row(1, "x"), row(1, "__debezium_unavailable_value")).unavailable(&["region"]);
    let error = refused("after.region == 'north'", &made);
    assert!(error.starts_with("EXPRESSION_VALUE_UNAVAILABLE") && error.contains("`region`"), "{error}");
    assert!(refused("after == before", &made).starts_with("EXPRESSION_VALUE_UNAVAILABLE"));
    assert!(!holds("has(after.region)", &made));
    assert!(holds("after.id == 1", &made));
}

#[test]
fn types_of_rows_are_types_of_cel() {
    let list = SchemaType::Array(optional(SchemaType::Int32));
    let map = SchemaType::Map(text());
    let inner =
        SchemaBuilder::structure().name("x.Point").field("x", required(SchemaType::Float64)).optional();
    let table = Table::new(
        "types",
        &[
            ("id", required(SchemaType::Int64)),
            ("flag", optional(SchemaType::Boolean)),
            ("day", named(SchemaType::Int32, "io.debezium.time.Date")),
            ("at", named(SchemaType::Int64, "io.debezium.time.MicroTimestamp")),
            ("zoned", named(SchemaType::String, "io.debezium.time.ZonedTimestamp")),
            ("time", named(SchemaType::Int64, "io.debezium.time.MicroTime")),
            ("small", optional(SchemaType::Float32)),
            ("raw", optional(SchemaType::Bytes)),
            ("list", optional(list)),
            ("map", optional(map)),
            ("point", inner.build()),
            ("big", decimals(0)),
        ],
    );
    let row = vec![
        n(i64::MAX),
        ValueRef::Bool(true),
        n(1),
        n(1_000_001),
        s("2026-11-21T10:34:56.789123Z"),
        n(3_600_000_000),
        ValueRef::Float32(0.5),
        ValueRef::Bytes(b"ab".to_vec().into()),
        ValueRef::Array(vec![n(1), ValueRef::Null]),
        ValueRef::Map(vec![("k".into(), s("v"))]),
        ValueRef::Struct(vec![ValueRef::Float64(1.5)]),
        decimal("123456789012"),
    ];
    let made = table.create(row);
    for when in [
        "after.id == 9223372036854775807 && after.flag",
        "after.day == timestamp('1970-01-02T00:00:00Z') && after.day.getFullYear() == 1970",
        "after.at == timestamp('1970-01-01T00:00:01.000001Z')",
        "after.zoned > after.at && after.zoned.getHours('Europe/Berlin') == 11",
        "after.time == duration('1h') && after.small == 0.5 && after.raw == b'ab'",
        "after.list[0] == 1 && after.list[1] == null && size(after.list) == 2 && 1 in after.list",
        "after.map.k == 'v' && after.map == {'k': 'v'} && after.point.x == 1.5",
        "after.big == 123456789012.0 && after.big < 123456789013",
    ] {
        assert!(holds(when, &made), "{when}");
    }
    assert!(refused("after.id + 1 > 0", &made).contains("`+` is out of range"), "overflow is an error");
    assert!(refused("after.id > 0 && after.flag + 1 == 2", &made).contains("does not work on"));
    assert!(refused("after.id", &made).contains("gives an int, expected `true` or `false`"));
}

/// What is wrong with an expression itself is said before any record is seen.
#[test]
fn bad_expressions_are_refused() {
    for (when, expected) in [
        (json!("after.region = 'x'"), "no CEL expression: line 1, character"),
        (json!("aftr.region == 'x'"), "did you mean `after`?"),
        (json!("lenght(after.x) > 1"), "calls `lenght`"),
        (json!("now() > timestamp"), "calls `now`"),
        (json!("row.x == 1"), "names `row`"),
        (json!("after.x.matches('(')"), "calls `matches`: not a regular expression: unclosed group"),
        (json!("topic_matches('(')"), "calls `topic_matches`: not a regular expression"),
        (json!("topic_matches(op)"), "something other than a text"),
        (json!("[1].all(a, [1].all(b, [1].all(c, true)))"), "nests 3 macros"),
        (json!("[1].map(a, a).map(a, a).map(a, a).map(a, a).map(a, a) == []"), "holds 5 macros"),
        (json!("1".repeat(5000)), "longer than 4096 bytes"),
        (json!("Foo{a: 1} == 1"), "makes a `Foo`"),
        (json!({"topic_matches": "("}), "topic_matches: not a regular expression"),
        (json!({"condition": "aftr"}), "condition: names `aftr`"),
        (json!({"topic_matches": "a", "has_header": "b"}), "expected a CEL expression"),
        (json!({"topik_matches": "a"}), "unknown field `topik_matches`"),
        (json!({"negate": true}), "expected a CEL expression"),
        (json!({"is_tombstone": 1}), "expected `true` or `false`"),
        (json!(7), "expected a CEL expression"),
    ] {
        let text = problem(when.clone());
        assert!(text.contains(expected), "{when}: {text}");
    }
}

/// Neither memory nor order is left to chance.
#[test]
fn expressions_are_bounded_and_deterministic() {
    let map = SchemaType::Map(text());
    let table =
        Table::new("m", &[("id", required(SchemaType::Int32)), ("map", optional(map)), ("t", text())]);
    let entries = vec![("a".into(), s("1")), ("b".into(), s("2"))];
    let made = table.create(vec![n(1), ValueRef::Map(entries), s(&"x".repeat(1 << 20))]);
    assert!(refused("after.map.map(k, k) == ['a', 'b']", &made).contains("visit lists only"));
    assert!(holds("after.map.exists(k, k == 'b')", &made));
    let doubled = "[after.t].map(x, x + x + x + x + x + x + x + x).map(x, x + x + x).exists(x, true)";
    assert!(refused(doubled, &made).contains("result of `+` is too large"));
    assert!(
        refused("after.t.replace('x', 'yyyyyyyyyyyyyyyyyyyy') == ''", &made)
            .contains("`replace` is too large")
    );
    assert!(refused("after.t.split('').map(x, x) == []", &made).contains("more than 10000 elements"));
}

/// CEL's own error texts hold values; ours do not.
#[test]
fn errors_hold_no_values() {
    let made = Table::orders().create(vec![n(42_424_242), s("secret"), s("hidden"), decimal("1.00")]);
    for when in [
        "after.name > 1",
        "after.name + 1 == 2",
        "after.id / 0 == 1",
        "after.id % 0 == 1",
        "after.name.getHours() == 1",
        "int(after.name) == 1",
        "[1][after.id] == 1",
        "after.name.foo == 1",
        "{'a': 1}[after.name] == 1",
        "-after.name == 1",
        "after.name in after.region",
        "after.name",
        "timestamp(after.name) == timestamp",
        "after.id.exists(x, true)",
        "after.id ? true : false",
        "{after.name: 1, after.name: 2} == {}",
    ] {
        let error = refused(when, &made);
        for value in ["secret", "hidden", "42424242", "42_424_242"] {
            assert!(!error.contains(value), "{when}: {error}");
        }
    }
}

/// Operations at the edges of their types.
const EDGES: [&str; 53] = [
    "after.least / -1 == 0",
    "after.least % -1 == 0",
    "-after.least == 0",
    "after.least - 1 == 0",
    "after.most * after.most == 0",
    "after.most + 1 == 0",
    "after.least / after.id == 0",
    "int(after.x) == 0",
    "uint(after.x) == 0u",
    "uint(after.least) == 0u",
    "int(after.t) == 0",
    "double(after.t) == 0.0",
    "uint(after.t) == 0u",
    "bool(after.t)",
    "timestamp(after.t) == after.first",
    "timestamp(after.most) == after.first",
    "timestamp(after.least) == after.first",
    "duration(after.t) == after.long",
    "after.first - after.long == after.first",
    "after.last + after.long == after.last",
    "after.last - after.first == after.long",
    "after.first - after.last == after.long",
    "after.long + after.long == after.long",
    "-after.long == after.long",
    "after.last + duration('1h') == after.first",
    "after.first.getHours(after.t) == 0",
    "after.first.getHours('-14:00') == 0",
    "after.last.getDate('+14:00') == 0",
    "after.last.getFullYear('Pacific/Kiritimati') == 0",
    "after.first.getFullYear('Pacific/Honolulu') == 0",
    "after.long.getMilliseconds() == 0",
    "string(after.long) == ''",
    "string(after.first) == ''",
    "string(after.x) == ''",
    "string(after.raw) == ''",
    "size(after.t) == 0",
    "after.t.matches(after.t)",
    "after.t.substring(1) == ''",
    "after.t.substring(after.most) == ''",
    "after.t.split(after.t).join(after.t) == ''",
    "after.t.replace('', 'x') == ''",
    "[1, 2][after.most] == 1",
    "[1, 2][after.least] == 1",
    "[1, 2][after.x] == 1",
    "{1: 2}[after.x] == 2",
    "after.x in [1, 2]",
    "after.x < after.least",
    "after.x == after.most",
    "after.day == after.first",
    "after == before",
    "after.x * after.x + after.x / 0.0 > after.x",
    "after.t < after.t + after.t",
    "after.raw + after.raw == b''",
];

/// Texts that read like numbers, instants, durations and patterns, and are none or too much.
const TEXTS: [&str; 15] = [
    "",
    "ä",
    "99999999999999999999h",
    "-9223372036854775808ns",
    "1e999",
    "9999-12-31T23:59:60Z",
    "0000-00-00",
    "(",
    "(a{1000}){1000}",
    "\u{0}",
    "0001-01-01T00:00:00+14:00",
    "-99999h99999m9e300s",
    "NaN",
    ".",
    "1h1",
];

/// Values come from outside: whatever they are, an operation on them is an answer or an error.
#[test]
fn no_value_makes_an_expression_panic() {
    let table = Table::new(
        "edges",
        &[
            ("id", required(SchemaType::Int64)),
            ("least", required(SchemaType::Int64)),
            ("most", required(SchemaType::Int64)),
            ("x", required(SchemaType::Float64)),
            ("first", named(SchemaType::Int64, "io.debezium.time.MicroTimestamp")),
            ("last", named(SchemaType::Int64, "io.debezium.time.MicroTimestamp")),
            ("long", named(SchemaType::Int64, "io.debezium.time.MicroDuration")),
            ("t", text()),
            ("raw", optional(SchemaType::Bytes)),
            ("day", named(SchemaType::Int32, "io.debezium.time.Date")),
        ],
    );
    for word in TEXTS {
        for x in [f64::NAN, f64::INFINITY, f64::MIN, f64::MAX, -0.0] {
            let made = table.create(vec![
                n(0),
                n(i64::MIN),
                n(i64::MAX),
                ValueRef::Float64(x),
                n(-62_135_596_800_000_000),
                n(253_402_300_799_999_999),
                n(i64::MAX),
                s(word),
                ValueRef::Bytes(vec![255, 0].into()),
                n(i64::from(i32::MIN)),
            ]);
            for expression in EDGES {
                if let Err(error) = test(json!(expression), &made) {
                    assert!(error.starts_with("EXPRESSION_"), "{expression}: {error}");
                }
            }
        }
    }
}
