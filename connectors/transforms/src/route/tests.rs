//! Against `org.apache.kafka.connect.transforms.RegexRouter` and `io.debezium.transforms.ContentBasedRouter`.

use serde_json::json;

use crate::testing::{Made, Table, apply, decimal, n, problems, s, step};

fn topics(settings: serde_json::Value, made: &Made) -> Vec<String> {
    apply(&mut step("route", settings), made).unwrap().into_iter().map(|seen| seen.topic).collect()
}

fn made(region: &str) -> Made {
    Table::orders().create(vec![n(1), s("Ada"), s(region), decimal("1.00")])
}

#[test]
fn a_pattern_renames_topics_that_match_as_a_whole() {
    let with = |regex: &str| json!({"regex": regex, "replacement": "new.$1"});
    assert_eq!(topics(with("shop\\.public\\.(.*)"), &made("x")), ["new.orders"]);
    assert_eq!(topics(with("public\\.(.*)"), &made("x")), ["shop.public.orders"]);
    assert_eq!(topics(with("shop\\.public\\.(.*)"), &Table::orders().tombstone(n(1))), ["new.orders"]);
    let bad = json!({"regex": ".*", "replacement": "a b"});
    assert_eq!(apply(&mut step("route", bad), &made("x")).unwrap_err().code, "TOPIC_INVALID");
}

#[test]
fn an_expression_names_one_or_several_or_none() {
    for (topic, expected) in [
        ("'to.' + after.region", vec!["to.north"]),
        ("[topic, 'all']", vec!["shop.public.orders", "all"]),
        ("[]", vec![]),
        ("null", vec!["shop.public.orders"]),
        ("after.region == 'north' ? 'n' : null", vec!["n"]),
    ] {
        assert_eq!(topics(json!({"topic": topic}), &made("north")), expected, "{topic}");
    }
    let error = apply(&mut step("route", json!({"topic": "1"})), &made("north")).unwrap_err();
    assert_eq!(error.message, "`topic` gives an int, expected a name, a list of names, or null");
    let error = apply(&mut step("route", json!({"topic": "['a', 'b c']"})), &made("north")).unwrap_err();
    assert_eq!(error.code, "TOPIC_INVALID");
}

#[test]
fn tombstones_are_kept_dropped_or_asked_about() {
    let tombstone = Table::orders().tombstone(n(1));
    let with = |mode: &str| json!({"topic": "value == null ? 'gone' : 'here'", "null_handling": mode});
    assert_eq!(topics(with("keep"), &tombstone), ["shop.public.orders"]);
    assert!(topics(with("drop"), &tombstone).is_empty());
    assert_eq!(topics(with("evaluate"), &tombstone), ["gone"]);
}

#[test]
fn one_way_is_chosen() {
    for settings in
        [json!({}), json!({"regex": "a"}), json!({"regex": "a", "replacement": "b", "topic": "'c'"})]
    {
        assert!(problems("route", settings).contains("either `regex` with `replacement`, or `topic`"));
    }
    assert!(problems("route", json!({"regex": "(", "replacement": "b"})).starts_with("regex: not a regular"));
    assert!(problems("route", json!({"topic": "topik"})).contains("did you mean `topic`?"));
}
