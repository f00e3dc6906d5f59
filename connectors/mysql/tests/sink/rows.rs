//! What records make of rows.

use rowstream_api::{SchemaType, SinkTask, ValueRef};
use rowstream_testkit::records::{Owned, Topic, int, s, schema, text};
use serde_json::json;

use crate::target::{Target, deliver, done, on_both};

fn n(number: i64) -> Owned {
    ValueRef::Int(number)
}

fn items() -> Topic {
    Topic::new("items", 1, &[("id", int()), ("a", text()), ("b", text())])
}

#[tokio::test]
async fn net_change_of_a_batch_equals_its_records_one_by_one() {
    on_both(async |mut target: Target| {
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
        let stored = format!("SELECT CAST(next_offset AS CHAR) FROM {}.sink_offsets", target.offsets());
        assert_eq!(target.text(&stored).await, "12");
    })
    .await;
}

#[tokio::test]
async fn deletes_can_be_turned_off() {
    on_both(async |mut target: Target| {
        let mut t = items();
        let mut task = target.open(json!({ "delete": false }), &t.partition).await;
        let records = vec![t.create(vec![n(1), s("one"), s("x")]), t.delete(vec![n(1)])];
        done(&mut task, records).await;
        assert_eq!(target.rows("items").await, "(1,one,x)");
    })
    .await;
}

#[tokio::test]
async fn values_swap_between_rows_of_a_second_unique_column() {
    on_both(async |mut target: Target| {
        target.sql("CREATE TABLE items (id int PRIMARY KEY, a varchar(9) UNIQUE, b text)").await;
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
    })
    .await;
}

#[tokio::test]
async fn unchanged_columns_are_left_alone() {
    on_both(async |mut target: Target| {
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
    })
    .await;
}

#[tokio::test]
async fn an_update_without_unchanged_columns_of_a_missing_row_is_refused_then_passed() {
    on_both(async |mut target: Target| {
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
        assert_eq!(
            flushed.offsets.get(&t.partition),
            Some(&1),
            "nothing passes a refusal that was not reported"
        );
        assert_eq!(target.rows("items").await, "(1,one,x)");
        assert!(task.pending_bytes() > 0);
        let flushed = task.flush().await.unwrap();
        assert_eq!((flushed.refused, flushed.offsets.get(&t.partition)), (vec![], Some(&4)));
        assert_eq!(target.rows("items").await, "(1,one,x);(2,two,x)");

        let mut task = target.open(json!({ "missing_unavailable": "insert_null" }), &t.partition).await;
        let record = t.update(vec![n(9), ValueRef::Unavailable, s("y")]);
        done(&mut task, vec![record]).await;
        assert_eq!(target.rows("items").await, "(1,one,x);(2,two,x);(9,,y)");
    })
    .await;
}

#[tokio::test]
async fn truncate_keeps_its_place_in_the_batch() {
    on_both(async |mut target: Target| {
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
    })
    .await;
}

#[tokio::test]
async fn append_writes_every_record() {
    on_both(async |mut target: Target| {
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
    })
    .await;
}

#[tokio::test]
async fn a_schema_change_inside_a_batch_adds_the_column() {
    on_both(async |mut target: Target| {
        let mut t = items();
        let mut task = target.open(json!({}), &t.partition).await;
        let mut records =
            vec![t.create(vec![n(1), s("one"), s("x")]), t.create(vec![n(2), s("two"), s("x")])];
        t.altered(&[("id", int()), ("a", text()), ("c", schema(SchemaType::Int64))]);
        records.push(t.update(vec![n(1), s("uno"), n(5)]));
        done(&mut task, records).await;
        assert_eq!(target.rows("items").await, "(1,uno,x,5);(2,two,x,)");

        t.altered(&[("id", int()), ("d", text())]);
        let mut task = target.open(json!({ "schema_changes": "none" }), &t.partition).await;
        let record = t.update(vec![n(1), s("new")]);
        let error = deliver(&mut task, vec![record]).await.unwrap_err();
        assert_eq!(error.code, "MYSQL_NO_COLUMN");
        assert!(error.remedy.unwrap().contains("ADD COLUMN `d` LONGTEXT"));
    })
    .await;
}

#[tokio::test]
async fn tables_that_do_not_fit_are_named_before_anything_is_written() {
    on_both(async |mut target: Target| {
        target.sql("CREATE TABLE items (id int PRIMARY KEY, a integer, b text, extra text NOT NULL)").await;
        let mut t = items();
        let mut task = target.open(json!({}), &t.partition).await;
        let record = t.create(vec![n(1), s("one"), s("x")]);
        let error = deliver(&mut task, vec![record]).await.unwrap_err();
        assert_eq!(error.class, rowstream_api::Class::Config);
        let told = format!("{}\n{}", error.message, error.remedy.unwrap());
        for part in [
            "`a`",
            ".items`",
            "`int",
            "`LONGTEXT`",
            "MODIFY COLUMN `a` LONGTEXT",
            "`extra`",
            "MODIFY COLUMN `extra` text NULL",
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
        assert_eq!(error.code, "MYSQL_NO_KEY");
        let mut task = target.open(json!({ "create_tables": false, "table": "other" }), &t.partition).await;
        let record = t.create(vec![n(1)]);
        assert_eq!(deliver(&mut task, vec![record]).await.unwrap_err().code, "MYSQL_NO_TABLE");
    })
    .await;
}

#[tokio::test]
async fn rows_that_the_target_rejects_are_isolated() {
    on_both(async |mut target: Target| {
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
        // What is too long is found by encoding, before the target sees the batch; the other by the target.
        let mut refused = Vec::new();
        let mut last = deliver(&mut task, records).await.unwrap();
        while !last.refused.is_empty() {
            let lowest = last.refused.iter().map(|(id, _)| id.offset).min().unwrap();
            assert!(last.offsets.get(&t.partition).is_none_or(|next| *next <= lowest));
            refused.extend(last.refused.iter().map(|(id, error)| (id.offset, error.code)));
            last = task.flush().await.unwrap();
        }
        refused.sort_unstable();
        assert_eq!(refused, [(17, "VALUE_TOO_LONG"), (55, "MYSQL_CHECK")]);
        assert_eq!(last.offsets.get(&t.partition), Some(&100));
        assert_eq!(target.text("SELECT CAST(count(*) AS CHAR) FROM items").await, "98");
    })
    .await;
}

#[tokio::test]
async fn a_refused_record_leaves_the_row_that_its_key_had_before_it() {
    on_both(async |mut target: Target| {
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
    })
    .await;
}

#[tokio::test]
async fn odd_names_and_composite_keys() {
    on_both(async |mut target: Target| {
        let columns = [("select", int()), ("Or`d\"er'", text()), ("größe $1", int()), ("a b", text())];
        let mut t = Topic::new("us`er\"; drop--", 2, &columns);
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
        assert_eq!(target.rows("us`er\"; drop--").await, "(1,k,5,v);(2,k,8,x)");
    })
    .await;
}

#[tokio::test]
async fn flat_records_and_templates() {
    on_both(async |mut target: Target| {
        let lake = target.offsets();
        let mut t = items();
        let mut task = target.open(json!({ "table": format!("{lake}.${{topic}}") }), &t.partition).await;
        let record = t.flat(vec![n(1), s("one"), s("x")]);
        done(&mut task, vec![record]).await;
        let row = format!("SELECT CONCAT(id, a, b) FROM {lake}.shop_public_items");
        assert_eq!(target.text(&row).await, "1onex");
        let more = vec![t.flat(vec![n(3), s("three"), s("x")]), t.tombstone(vec![n(1)])];
        done(&mut task, more).await;
        assert_eq!(target.text(&row).await, "3threex");
        let mut keyless = t.create(vec![n(2), s("two"), s("x")]);
        keyless.key = None;
        let flushed = deliver(&mut task, vec![keyless]).await.unwrap();
        assert_eq!(flushed.refused[0].1.code, "KEY_MISSING");
    })
    .await;
}

#[tokio::test]
async fn many_deletes_find_their_rows_by_index() {
    on_both(async |mut target: Target| {
        let digits = "(SELECT 0 d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 UNION SELECT 5 UNION \
                      SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9)";
        target
            .sql(&format!(
                "CREATE TABLE items (id int, r varchar(5) COLLATE utf8mb4_bin, a text, PRIMARY KEY (id, r));
                 INSERT INTO items SELECT a.d + 10 * b.d + 100 * c.d + 1000 * e.d + 10000 * f.d + 1, 'r', 'a'
                 FROM {digits} a, {digits} b, {digits} c, {digits} e, {digits} f"
            ))
            .await;
        let mut t = Topic::new("items", 2, &[("id", int()), ("r", text()), ("a", text())]);
        // Were all rows read for each statement, it would run for minutes, into this limit.
        let mut task = target.open(json!({ "statement_timeout": "10s" }), &t.partition).await;
        let records = (1..=10_000).map(|i| t.delete(vec![n(i * 7), s("r")])).collect();
        done(&mut task, records).await;
        let left = "SELECT CAST(count(*) AS CHAR) FROM items WHERE id <= 70000";
        assert_eq!(target.text(left).await, "60000");
    })
    .await;
}
