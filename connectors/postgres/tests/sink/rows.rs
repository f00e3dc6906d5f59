//! What records make of rows.

use rowstream_api::{DELETED_HEADER, SchemaType, SinkTask, UNAVAILABLE_HEADER, ValueRef};
use rowstream_testkit::records::{Owned, Topic, int, s, schema, text};
use serde_json::json;

use crate::target::{Target, deliver, done};

fn n(number: i64) -> Owned {
    ValueRef::Int(number)
}

fn items() -> Topic {
    Topic::new("items", 1, &[("id", int()), ("a", text()), ("b", text())])
}

#[tokio::test]
async fn net_change_of_a_batch_equals_its_records_one_by_one() {
    let target = Target::new().await;
    let mut t = items();
    let mut task = target.open(json!({}), &t.partition).await;
    let records = vec![
        t.create(vec![n(1), s("one"), s("x")]),
        t.create(vec![n(2), s("two"), s("x")]),
        t.write("r", vec![n(3), s("three"), ValueRef::Null]),
        t.update(vec![n(1), s("uno"), s("y")]),
        t.delete(vec![n(2)]),
        t.tombstone(vec![n(2)]),
        t.delete(vec![n(3)]),
        t.create(vec![n(3), s("tres"), s("z")]),
        t.delete(vec![n(99)]),
    ];
    let flushed = done(&mut task, records).await;
    assert_eq!(flushed.offsets.get(&t.partition), Some(&9));
    assert_eq!(target.rows("items").await, "(1,uno,y);(3,tres,z)");
    let deletes = vec![t.delete(vec![n(1)]), t.tombstone(vec![n(1)]), t.delete(vec![n(3)])];
    done(&mut task, deletes).await;
    assert_eq!(target.rows("items").await, "");
    let stored = "SELECT next_offset::text FROM rowstream.sink_offsets";
    assert_eq!(target.text(stored).await, "12");
}

#[tokio::test]
async fn deletes_can_be_turned_off() {
    let target = Target::new().await;
    let mut t = items();
    let mut task = target.open(json!({ "delete": false }), &t.partition).await;
    let records = vec![t.create(vec![n(1), s("one"), s("x")]), t.delete(vec![n(1)])];
    done(&mut task, records).await;
    assert_eq!(target.rows("items").await, "(1,one,x)");
}

#[tokio::test]
async fn values_swap_between_rows_of_a_second_unique_column() {
    let target = Target::new().await;
    target.sql("CREATE TABLE items (id int PRIMARY KEY, a text UNIQUE, b text)").await;
    let mut t = items();
    let mut task = target.open(json!({}), &t.partition).await;
    let first = vec![t.create(vec![n(1), s("one"), s("x")]), t.create(vec![n(2), s("two"), s("x")])];
    done(&mut task, first).await;
    let swap = vec![
        t.update(vec![n(1), s("hop"), s("x")]),
        t.update(vec![n(2), s("one"), s("x")]),
        t.update(vec![n(1), s("two"), s("x")]),
    ];
    done(&mut task, swap).await;
    assert_eq!(target.rows("items").await, "(1,two,x);(2,one,x)");
}

#[tokio::test]
async fn unchanged_columns_are_left_alone() {
    let target = Target::new().await;
    let mut t = items();
    let mut task = target.open(json!({}), &t.partition).await;
    let records = (1..=4).map(|id| t.create(vec![n(id), s("big"), s("small")])).collect();
    done(&mut task, records).await;
    let records = vec![
        t.update(vec![n(1), ValueRef::Unavailable, s("new")]),
        t.update(vec![n(2), s("new"), ValueRef::Unavailable]),
        t.update(vec![n(3), ValueRef::Unavailable, ValueRef::Unavailable]),
        // The placeholder as text is the same; and what the batch knows is merged.
        t.update(vec![n(4), s("known"), s("new")]),
        t.update(vec![n(4), s("__debezium_unavailable_value"), s("newer")]),
        t.create(vec![n(5), s("fresh"), s("x")]),
        t.update(vec![n(5), ValueRef::Unavailable, s("y")]),
    ];
    done(&mut task, records).await;
    let expected = "(1,big,new);(2,new,small);(3,big,small);(4,known,newer);(5,fresh,y)";
    assert_eq!(target.rows("items").await, expected);
}

#[tokio::test]
async fn an_update_without_unchanged_columns_of_a_missing_row_is_refused_then_passed() {
    let target = Target::new().await;
    let mut t = items();
    let mut task = target.open(json!({}), &t.partition).await;
    let records = vec![
        t.create(vec![n(1), s("one"), s("x")]),
        t.update(vec![n(7), ValueRef::Unavailable, s("y")]),
        t.update(vec![n(8), ValueRef::Unavailable, ValueRef::Unavailable]),
        t.create(vec![n(2), s("two"), s("x")]),
    ];
    let flushed = deliver(&mut task, records).await.unwrap();
    let refused: Vec<(i64, &str)> = flushed.refused.iter().map(|(id, e)| (id.offset, e.code)).collect();
    assert_eq!(refused, [(1, "UNAVAILABLE_VALUE"), (2, "UNAVAILABLE_VALUE")]);
    assert_eq!(flushed.offsets.get(&t.partition), Some(&1), "nothing passes a refusal that was not reported");
    assert_eq!(target.rows("items").await, "(1,one,x)");
    assert!(task.pending_bytes() > 0);
    let flushed = task.flush().await.unwrap();
    assert_eq!((flushed.refused, flushed.offsets.get(&t.partition)), (vec![], Some(&4)));
    assert_eq!(target.rows("items").await, "(1,one,x);(2,two,x)");

    let mut task = target.open(json!({ "missing_unavailable": "insert_null" }), &t.partition).await;
    let record = t.update(vec![n(9), ValueRef::Unavailable, s("y")]);
    done(&mut task, vec![record]).await;
    assert_eq!(target.rows("items").await, "(1,one,x);(2,two,x);(9,,y)");
}

#[tokio::test]
async fn truncate_keeps_its_place_in_the_batch() {
    let target = Target::new().await;
    let mut t = items();
    let mut task = target.open(json!({}), &t.partition).await;
    let never_filled = t.truncate();
    done(&mut task, vec![never_filled]).await;
    let first = t.create(vec![n(1), s("one"), s("x")]);
    done(&mut task, vec![first]).await;
    let records = vec![
        t.create(vec![n(2), s("two"), s("x")]),
        t.update(vec![n(1), s("uno"), s("x")]),
        t.truncate(),
        t.create(vec![n(3), s("three"), s("x")]),
    ];
    done(&mut task, records).await;
    assert_eq!(target.rows("items").await, "(3,three,x)");
    let mut task = target.open(json!({ "truncate": "fail" }), &t.partition).await;
    let record = t.truncate();
    let flushed = deliver(&mut task, vec![record]).await.unwrap();
    assert_eq!(flushed.refused[0].1.code, "TRUNCATE_REFUSED");
    let mut task = target.open(json!({ "truncate": "ignore" }), &t.partition).await;
    let record = t.truncate();
    done(&mut task, vec![record]).await;
    assert_eq!(target.rows("items").await, "(3,three,x)");
}

#[tokio::test]
async fn append_writes_every_record() {
    let target = Target::new().await;
    let mut t = items();
    let mut task = target.open(json!({ "write_mode": "append" }), &t.partition).await;
    let records = vec![
        t.create(vec![n(1), s("one"), s("x")]),
        t.update(vec![n(1), s("uno"), ValueRef::Unavailable]),
        t.delete(vec![n(1)]),
        t.tombstone(vec![n(1)]),
        t.truncate(),
    ];
    done(&mut task, records).await;
    let topic = "shop.public.items,0";
    let expected = [
        format!("(,,,t,1004,{topic},4)"),
        format!("(1,,,d,1002,{topic},2)"),
        format!("(1,one,x,c,1000,{topic},0)"),
        format!("(1,uno,,u,1001,{topic},1)"),
    ];
    assert_eq!(target.rows("items").await, expected.join(";"));
}

#[tokio::test]
async fn a_schema_change_inside_a_batch_adds_the_column() {
    let target = Target::new().await;
    let mut t = items();
    let mut task = target.open(json!({}), &t.partition).await;
    let mut records = vec![t.create(vec![n(1), s("one"), s("x")]), t.create(vec![n(2), s("two"), s("x")])];
    t.altered(&[("id", int()), ("a", text()), ("c", schema(SchemaType::Int64))]);
    records.push(t.update(vec![n(1), s("uno"), n(5)]));
    done(&mut task, records).await;
    assert_eq!(target.rows("items").await, "(1,uno,x,5);(2,two,x,)");

    t.altered(&[("id", int()), ("d", text())]);
    let mut task = target.open(json!({ "schema_changes": "none" }), &t.partition).await;
    let record = t.update(vec![n(1), s("new")]);
    let error = deliver(&mut task, vec![record]).await.unwrap_err();
    assert_eq!(error.code, "PG_NO_COLUMN");
    assert!(error.remedy.unwrap().contains("ADD COLUMN IF NOT EXISTS \"d\" text"));
}

#[tokio::test]
async fn tables_that_do_not_fit_are_named_before_anything_is_written() {
    let target = Target::new().await;
    target.sql("CREATE TABLE items (id int PRIMARY KEY, a integer, b text, extra text NOT NULL)").await;
    let mut t = items();
    let mut task = target.open(json!({}), &t.partition).await;
    let record = t.create(vec![n(1), s("one"), s("x")]);
    let error = deliver(&mut task, vec![record]).await.unwrap_err();
    assert_eq!(error.class, rowstream_api::Class::Config);
    let told = format!("{}\n{}", error.message, error.remedy.unwrap());
    for part in [
        "`a`",
        "`public.items`",
        "`integer`",
        "`text`",
        "ALTER COLUMN \"a\" TYPE text",
        "`extra`",
        "DROP NOT NULL",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert_eq!(target.rows("items").await, "");
    assert!(task.flush().await.is_err(), "an ended task does nothing more");

    let mut t = Topic::new("keyless", 1, &[("id", int())]);
    target.sql("CREATE TABLE keyless (id int)").await;
    let mut task = target.open(json!({}), &t.partition).await;
    let record = t.create(vec![n(1)]);
    let error = deliver(&mut task, vec![record]).await.unwrap_err();
    assert_eq!(error.code, "PG_NO_KEY");
    let mut task = target.open(json!({ "create_tables": false, "table": "other" }), &t.partition).await;
    let record = t.create(vec![n(1)]);
    assert_eq!(deliver(&mut task, vec![record]).await.unwrap_err().code, "PG_NO_TABLE");
}

#[tokio::test]
async fn rows_that_the_target_rejects_are_isolated() {
    let target = Target::new().await;
    target.sql("CREATE TABLE items (id int PRIMARY KEY, a varchar(3), b text CHECK (b <> 'bad'))").await;
    let mut t = items();
    let mut task = target.open(json!({ "batch_rows_max": 40 }), &t.partition).await;
    let row = |id: i64| match id {
        17 => vec![n(id), s("too long"), s("x")],
        55 => vec![n(id), s("ok"), s("bad")],
        56 => vec![n(id), s("ok"), s("nul\0")],
        _ => vec![n(id), s("ok"), s("x")],
    };
    let records = (0..100).map(|id| t.create(row(id))).collect();
    // The NUL is found by encoding, before the target sees the batch; the others by the target.
    let mut refused = Vec::new();
    let mut last = deliver(&mut task, records).await.unwrap();
    while !last.refused.is_empty() {
        let lowest = last.refused.iter().map(|(id, _)| id.offset).min().unwrap();
        assert!(last.offsets.get(&t.partition).is_none_or(|next| *next <= lowest));
        refused.extend(last.refused.iter().map(|(id, error)| (id.offset, error.code)));
        last = task.flush().await.unwrap();
    }
    refused.sort_unstable();
    assert_eq!(refused, [(17, "PG_DATA"), (55, "PG_CHECK"), (56, "VALUE_NUL")]);
    assert_eq!(last.offsets.get(&t.partition), Some(&100));
    assert_eq!(target.text("SELECT count(*)::text FROM items").await, "97");
}

#[tokio::test]
async fn a_rejected_row_names_the_column_and_its_type_but_no_value() {
    let target = Target::new().await;
    for (ty, rest, value, what) in [
        ("point", "text", "secret", "a text is not a value of its column's type"),
        ("varchar(3)", "text NOT NULL", "secret", "a text is longer than its column allows"),
        ("inet", "text", "10.0.0.secret", "a text is not a value of its column's type"),
    ] {
        for mode in ["upsert", "append"] {
            let extra = if mode == "append" {
                ", __op text, __ts_ms bigint, __topic text, __partition int, __offset bigint"
            } else {
                ""
            };
            target.sql("DROP TABLE IF EXISTS items").await;
            target.sql(&format!("CREATE TABLE items (id int PRIMARY KEY, b {rest}, a {ty}{extra})")).await;
            let mut t = items();
            let mut task = target.open(json!({ "write_mode": mode }), &t.partition).await;
            let record = t.create(vec![n(1), s(value), s("fine")]);
            let flushed = deliver(&mut task, vec![record]).await.unwrap();
            let [(_, error)] = flushed.refused.as_slice() else { panic!("{ty}: {:?}", flushed.refused) };
            let full = ty.replace("varchar", "character varying");
            let expected =
                format!("table `public.items`, column `a` of type {full}, rejected the row: {what}");
            assert!(error.message.starts_with(&expected), "{}", error.message);
            assert!(!error.message.contains("secret"), "{}", error.message);
        }
    }
}

#[tokio::test]
async fn a_refused_record_leaves_the_row_that_its_key_had_before_it() {
    let target = Target::new().await;
    target.sql("CREATE TABLE items (id int PRIMARY KEY, a varchar(3), b text)").await;
    let mut t = items();
    let mut task = target.open(json!({}), &t.partition).await;
    let records = vec![
        t.create(vec![n(1), s("ok"), s("x")]),
        t.update(vec![n(1), s("too long"), s("y")]),
        t.create(vec![n(2), s("ok"), s("z")]),
    ];
    let flushed = deliver(&mut task, records).await.unwrap();
    assert_eq!(flushed.refused.len(), 1);
    task.flush().await.unwrap();
    assert_eq!(target.rows("items").await, "(1,ok,x);(2,ok,z)");
}

#[tokio::test]
async fn odd_names_and_composite_keys() {
    let target = Target::new().await;
    let columns = [("select", int()), ("Or\"der'", text()), ("größe $1", int()), ("a b", text())];
    let mut t = Topic::new("user\"; drop--", 2, &columns);
    let mut task = target.open(json!({}), &t.partition).await;
    let records = vec![
        t.create(vec![n(1), s("k"), n(5), s("v")]),
        t.create(vec![n(1), s("l"), n(6), s("w")]),
        t.create(vec![n(2), s("k"), n(7), s("x")]),
    ];
    done(&mut task, records).await;
    let records =
        vec![t.delete(vec![n(1), s("l")]), t.update(vec![n(2), s("k"), n(8), ValueRef::Unavailable])];
    done(&mut task, records).await;
    assert_eq!(target.rows("\"user\"\"; drop--\"").await, "(1,k,5,v);(2,k,8,x)");
}

#[tokio::test]
async fn flat_records_and_templates() {
    let target = Target::new().await;
    target.sql("CREATE SCHEMA lake").await;
    let mut t = items();
    let mut task = target.open(json!({ "table": "lake.${topic}" }), &t.partition).await;
    let record = t.flat(vec![n(1), s("one"), s("x")]);
    done(&mut task, vec![record]).await;
    assert_eq!(target.rows("lake.shop_public_items").await, "(1,one,x)");
    // A column that the source did not send is left alone in flat rows too.
    let mut unsent = t.flat(vec![n(1), s("__debezium_unavailable_value"), s("y")]);
    unsent.headers.push((UNAVAILABLE_HEADER.into(), r#"["a"]"#.into()));
    done(&mut task, vec![unsent]).await;
    assert_eq!(target.rows("lake.shop_public_items").await, "(1,one,y)");
    // Of flat records a tombstone is the delete; so it is where its header says so, whatever is known of its topic.
    let more = vec![t.flat(vec![n(3), s("three"), s("x")]), t.tombstone(vec![n(1)])];
    done(&mut task, more).await;
    assert_eq!(target.rows("lake.shop_public_items").await, "(3,three,x)");
    let mut again = target.open(json!({ "table": "lake.${topic}" }), &t.partition).await;
    let mut told = t.tombstone(vec![n(3)]);
    told.headers.push((DELETED_HEADER.into(), "true".into()));
    done(&mut again, vec![told]).await;
    assert_eq!(target.rows("lake.shop_public_items").await, "");
    let mut task = again;
    let mut keyless = t.create(vec![n(2), s("two"), s("x")]);
    keyless.key = None;
    let flushed = deliver(&mut task, vec![keyless]).await.unwrap();
    assert_eq!(flushed.refused[0].1.code, "KEY_MISSING");
}

/// The plan that took nine minutes must not occur, with or without statistics.
#[tokio::test]
async fn many_deletes_find_their_rows_by_index() {
    let target = Target::new().await;
    target
        .sql(
            "CREATE TABLE items (id int PRIMARY KEY, a text, b text);
             ALTER TABLE items SET (autovacuum_enabled = off);
             INSERT INTO items SELECT i, 'a', 'b' FROM generate_series(1, 200000) i",
        )
        .await;
    let mut t = items();
    // Were it planned as a nested loop over all rows, it would run for minutes, into this limit.
    let settings = json!({ "batch_rows_max": 20000, "statement_timeout": "30s" });
    let mut task = target.open(settings, &t.partition).await;
    let records = (1..=20_000).map(|i| t.delete(vec![n(i * 7)])).collect();
    done(&mut task, records).await;
    assert_eq!(target.text("SELECT count(*)::text FROM items WHERE id <= 140000").await, "120000");
}
