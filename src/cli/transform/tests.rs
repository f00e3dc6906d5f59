//! Files of examples from end to end, and what is printed of them.

use std::path::{Path, PathBuf};

use super::{Action, TestArgs, TransformArgs, transform};
use crate::cli::exit::{Exit, Failure};

fn run(files: &[PathBuf], json: bool) -> (Exit, String) {
    let action = Action::Test(TestArgs { files: files.to_vec(), print: false, json });
    let mut out = Vec::new();
    let exit = match transform(&TransformArgs { action }, &mut out) {
        Ok(()) => Exit::Ok,
        Err(failure) => {
            out.extend(failure.text().unwrap_or_default().into_bytes());
            failure.exit()
        }
    };
    (exit, String::from_utf8(out).unwrap())
}

/// What comes of one file of this text, without its name.
fn of(text: &str) -> (Exit, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.test.yaml");
    std::fs::write(&file, text).unwrap();
    let (exit, out) = run(std::slice::from_ref(&file), false);
    (exit, out.replace(&format!("{}\n", file.display()), ""))
}

const NORTH: &str = "
topic: shop.public.orders
transforms:
  - { type: filter, condition: \"after.region == 'north'\" }
  - { type: unwrap }
";

#[test]
fn the_shipped_examples_pass() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/shop/transforms");
    let (exit, out) = run(&[examples.clone(), examples.join("partner.yaml")], false);
    assert_eq!(exit, Exit::Ok, "{out}");
    assert!(out.ends_with("10 of 10 cases passed\n"), "{out}");
}

#[test]
fn a_failed_case_is_named_with_the_place_of_each_difference() {
    let (exit, out) = of(&format!(
        "{NORTH}
tables: {{ shop.public.orders: {{ key: [id], columns: {{ id: int64 not null, region: string, total: 'decimal(9,2)' }} }} }}
cases:
  - name: kept
    input: {{ after: {{ id: 1, region: north, total: 1.5 }} }}
    expect: [{{ topic: orders, key: {{ id: 1 }}, value: {{ id: 1, total: 1.51, name: x }}, headers: {{ h: v }} }}]
  - name: passes
    input: {{ after: {{ id: 1, region: north, total: 1.5 }} }}
    expect: [{{ value: {{ id: 1, region: north, total: 1.50 }}, headers: {{ h: null }} }}]
  - name: dropped
    input: {{ after: {{ id: 2, region: west }} }}
    expect: [{{ topic: orders }}]
"
    ));
    let expected = r#"  FAILED  kept
          record 1, topic
            - expected  "orders"
            + found     "shop.public.orders"
          record 1, value.name
            - expected  "x"
            + found     (not there)
          record 1, value.total
            - expected  1.51
            + found     "1.50"
          record 1, value.region
            - expected  (not there)
            + found     "north"
          record 1, headers.h
            - expected  "v"
            + found     (not there)
  ok      passes
  FAILED  dropped
          expected 1 record, found no record
1 of 3 cases passed
"#;
    assert_eq!((exit, out.as_str()), (Exit::Failed, expected));
}

#[test]
fn a_refusal_can_be_expected() {
    let (exit, out) = of("
topic: t
transforms: [{ type: cast, spec: ['n:int8'] }]
cases:
  - { name: refused, input: { after: { n: 1000 } }, expect: { error: VALUE_OUT_OF_RANGE } }
  - { name: not refused, input: { after: { n: 1 } }, expect: { error: VALUE_OUT_OF_RANGE } }
  - { name: not expected, input: { after: { n: 1000 } }, expect: [{ after: { n: 1 } }] }
");
    assert_eq!(exit, Exit::Failed);
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[1].starts_with("  FAILED  not refused"), "{out}");
    assert!(lines[2].ends_with("expected a refusal with `VALUE_OUT_OF_RANGE`, found 1 record"), "{out}");
    assert!(lines[4].contains("but the record is refused: "), "{out}");
    assert!(lines[4].contains("transform `cast`"), "{out}");
}

#[test]
fn a_sink_may_not_copy() {
    let text = |kind: &str| {
        format!(
            "
kind: {kind}
topic: t
transforms: [{{ type: route, topic: \"['a', 'b']\" }}]
cases:
  - {{ name: copied, input: {{ value: {{ n: 1 }} }}, expect: [{{ topic: a }}, {{ topic: b }}] }}
"
        )
    };
    assert_eq!(of(&text("source")).0, Exit::Ok);
    let (exit, out) = of(&text("sink"));
    assert_eq!(exit, Exit::Failed);
    assert!(out.contains("TRANSFORM_COPIES_IN_SINK"), "{out}");
}

#[test]
fn an_unavailable_column_is_one_in_the_test_too() {
    let (exit, out) = of("
topic: t
transforms: [{ type: rename, fields: { doc: text } }]
cases:
  - name: renamed
    input: { before: { id: 1 }, after: { id: 1, doc: __debezium_unavailable_value } }
    expect: [{ op: u, headers: { __rowstream.unavailable: '[\"text\"]' } }]
");
    assert_eq!(exit, Exit::Ok, "{out}");
}

#[test]
fn everything_wrong_with_a_file_is_told_with_its_place() {
    let (exit, out) = of("
transforms: [{ type: flter, condition: x }, { type: drop, feilds: [a] }]
cases:
  - { name: a, input: { topic: t, aftr: {} }, expect: [] }
  - { name: b, input: { after: {} }, expect: [] }
  - { name: c, input: { topic: t }, expect: [] }
  - { name: c, input: { topic: t, value: null }, expect: { error: [] } }
");
    assert_eq!(exit, Exit::Config);
    for expected in [
        "transforms.flter.type: `flter` is not a transform",
        "transforms.drop.feilds: is not a known key; did you mean `fields`?",
        "cases[0].input: unknown field `aftr`",
        "cases[1].input.topic: is required",
        "cases[2].input: expected `before`, `after` or `op`, or else `value`",
        "cases[3].expect.error: expected a text",
        "0 of 0 cases passed; 1 file(s) can't be used",
    ] {
        assert!(out.contains(expected), "missing {expected:?} in:\n{out}");
    }
    let (exit, out) = of(&format!(
        "{NORTH}
tables:
  shop.public.orders: {{ columns: {{ id: int32 not null, day: date }} }}
cases:
  - {{ name: a, input: {{ after: {{ id: x, day: today }} }}, expect: [] }}
  - {{ name: b, input: {{ after: {{ id: 1, dya: null }} }}, expect: [] }}
  - {{ name: c, input: {{ after: {{ day: 1 }} }}, expect: [] }}
  - {{ name: d, input: {{ after: {{ id: 3000000000 }} }}, expect: [] }}
"
    ));
    assert_eq!(exit, Exit::Config);
    for expected in [
        "cases[0] `a`: input[0].after.day: expected a date such as 2026-03-01, found a text",
        "cases[1] `b`: input[0].after.dya: is not in the schema; did you mean `day`?",
        "cases[2] `c`: input[0].after.id: is not given, and its type does not allow null",
        "cases[3] `d`: input[0].after.id: is beyond 32 bits",
    ] {
        assert!(out.contains(expected), "missing {expected:?} in:\n{out}");
    }
}

#[test]
fn a_registered_schema_gives_the_types() {
    let directory = tempfile::tempdir().unwrap();
    let schema = r#"{"type":"record","name":"Value","namespace":"t","fields":[
        {"name":"id","type":"long"},
        {"name":"amount","type":["null",{"type":"bytes","logicalType":"decimal","precision":9,"scale":2,"connect.version":1,
            "connect.parameters":{"scale":"2","connect.decimal.precision":"9"},"connect.name":"org.apache.kafka.connect.data.Decimal"}],"default":null}]}"#;
    std::fs::write(directory.path().join("t.avsc"), schema).unwrap();
    let text = "
tables: { t: { value_schema: t.avsc } }
transforms: [{ type: drop, fields: [id] }]
cases: [{ name: a, input: { topic: t, value: { id: 1, amount: 2.5 } }, expect: [{ key: null, value: { amount: 2.5 } }] }]
";
    let file = directory.path().join("x.test.yaml");
    std::fs::write(&file, text).unwrap();
    let (exit, out) = run(&[directory.path().to_owned()], true);
    assert_eq!(exit, Exit::Ok, "{out}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        report[0]["cases"][0]["made"][0]["value"],
        serde_json::json!({ "amount": "2.50" }),
        "{report}"
    );
}

#[test]
fn files_that_are_not_there_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none.test.yaml");
    for (path, what) in [(missing, "there is no file"), (directory.path().to_owned(), "holds no *.test.yaml")]
    {
        let (exit, out) = run(&[path], false);
        assert_eq!(exit, Exit::Config);
        assert!(out.contains(what), "{out}");
    }
    let args = TransformArgs {
        action: Action::Test(TestArgs { files: vec![PathBuf::from("none")], print: false, json: false }),
    };
    assert!(matches!(transform(&args, &mut Vec::new()), Err(Failure::Config(_))));
}
