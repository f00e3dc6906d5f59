//! One row a key, exactly: other unique keys, collations that take different keys for one, rows that refer to others.

use rowstream_api::ValueRef;
use rowstream_testkit::records::{Owned, Topic, int, s, text};
use serde_json::json;

use crate::target::{Target, deliver, done, on_both};

fn n(number: i64) -> Owned {
    ValueRef::Int(number)
}

fn items() -> Topic {
    Topic::new("items", 1, &[("id", int()), ("u", text()), ("b", text())])
}

/// What `ON DUPLICATE KEY UPDATE` alone does here: row 1 is overwritten in silence, and row 3 never exists.
#[tokio::test]
async fn a_value_that_another_row_has_in_a_second_unique_column_is_refused_and_nothing_overwritten() {
    on_both(async |mut target: Target| {
        target.sql("CREATE TABLE items (id int PRIMARY KEY, u varchar(9) UNIQUE, b text)").await;
        let mut t = items();
        let mut task = target.open(json!({}), &t.partition).await;
        let first = vec![t.create(vec![n(1), s("a"), s("x")]), t.create(vec![n(2), s("b"), s("x")])];
        done(&mut task, first).await;
        let records = vec![t.create(vec![n(3), s("a"), s("y")]), t.create(vec![n(4), s("d"), s("y")])];
        let flushed = deliver(&mut task, records).await.unwrap();
        let (id, error) = &flushed.refused[0];
        assert_eq!((id.offset, error.code), (2, "MYSQL_UNIQUE"));
        assert_eq!(
            error.message,
            format!(
                "table `{}.items` rejected the row: another row has the same unique value (error 1062, SQLSTATE \
                 23000, key `u`)",
                target.database
            )
        );
        rowstream_api::SinkTask::flush(&mut task).await.unwrap();
        assert_eq!(target.rows("items").await, "(1,a,x);(2,b,x);(4,d,y)");
        // Taken over once its owner let go, in one batch and whatever the order of keys.
        let records = vec![
            t.delete(vec![n(4)]),
            t.update(vec![n(2), s("d"), s("z")]),
            t.update(vec![n(1), s("b"), s("z")]),
            t.create(vec![n(0), s("a"), s("z")]),
        ];
        done(&mut task, records).await;
        assert_eq!(target.rows("items").await, "(0,a,z);(1,b,z);(2,d,z)");
    })
    .await;
}

#[tokio::test]
async fn keys_that_the_collation_takes_for_one_never_overwrite_each_other() {
    on_both(async |mut target: Target| {
        let columns = [("k", text()), ("v", text())];
        // In a table of ours they are two.
        let mut t = Topic::new("ours", 1, &columns);
        let mut task = target.open(json!({}), &t.partition).await;
        let records = ["a", "A", "a ", "ä", "a\u{308}"].map(|k| t.create(vec![s(k), s(k)]));
        done(&mut task, records.to_vec()).await;
        assert_eq!(target.text("SELECT CAST(COUNT(*) AS CHAR) FROM ours WHERE k = v").await, "5");
        // In a table that compares without case they can't be, which is told.
        target.sql("CREATE TABLE theirs (k varchar(9) COLLATE utf8mb4_general_ci PRIMARY KEY, v text)").await;
        let mut t = Topic::new("theirs", 1, &columns);
        let mut task = target.open(json!({}), &t.partition).await;
        let first = t.create(vec![s("a"), s("1")]);
        done(&mut task, vec![first]).await;
        let second = t.create(vec![s("A"), s("2")]);
        let flushed = deliver(&mut task, vec![second]).await.unwrap();
        assert_eq!(flushed.refused[0].1.code, "MYSQL_UNIQUE");
        rowstream_api::SinkTask::flush(&mut task).await.unwrap();
        // A key that changes by case only is a delete and a create.
        let records = vec![t.delete(vec![s("a")]), t.create(vec![s("A"), s("3")])];
        done(&mut task, records).await;
        let records = vec![t.delete(vec![s("a")]), t.update(vec![s("A"), s("4")])];
        done(&mut task, records).await;
        assert_eq!(target.rows("theirs").await, "(A,4)");
    })
    .await;
}

#[tokio::test]
async fn a_counter_of_the_targets_own_is_no_second_key() {
    on_both(async |mut target: Target| {
        target
            .sql("CREATE TABLE items (n int AUTO_INCREMENT PRIMARY KEY, id int UNIQUE, u varchar(9), b text)")
            .await;
        let mut t = items();
        let mut task = target.open(json!({}), &t.partition).await;
        let records = vec![t.create(vec![n(7), s("a"), s("x")]), t.create(vec![n(8), s("a"), s("x")])];
        done(&mut task, records).await;
        let before = target.text("SELECT CAST(n AS CHAR) FROM items ORDER BY id").await;
        let records = vec![t.update(vec![n(7), s("b"), s("y")]), t.update(vec![n(8), s("b"), s("y")])];
        done(&mut task, records).await;
        assert_eq!(target.text("SELECT CAST(n AS CHAR) FROM items ORDER BY id").await, before);
        assert_eq!(target.text("SELECT CONCAT(id, u, b) FROM items ORDER BY id").await, "7by;8by");
    })
    .await;
}

/// Rows are deleted only to be inserted again where a second unique key exists: what refers to them must not notice.
#[tokio::test]
async fn replaced_rows_do_not_take_those_with_them_that_refer_to_them() {
    on_both(async |mut target: Target| {
        target
            .sql(
                "CREATE TABLE items (id int PRIMARY KEY, u varchar(9) UNIQUE, b text);
                 CREATE TABLE parts (p int PRIMARY KEY, item int,
                     FOREIGN KEY (item) REFERENCES items (id) ON DELETE CASCADE)",
            )
            .await;
        let mut t = items();
        let mut task = target.open(json!({}), &t.partition).await;
        let records = vec![t.create(vec![n(1), s("a"), s("x")]), t.create(vec![n(2), s("b"), s("x")])];
        done(&mut task, records).await;
        target.sql("INSERT INTO parts VALUES (10, 1), (20, 2)").await;
        let records = vec![t.update(vec![n(1), s("a2"), s("y")]), t.delete(vec![n(2)])];
        done(&mut task, records).await;
        assert_eq!(target.rows("items").await, "(1,a2,y)");
        assert_eq!(target.rows("parts").await, "(10,1)", "a real delete cascades as the target says");
    })
    .await;
}

#[tokio::test]
async fn spaces_at_the_end_of_a_key_are_not_lost_in_silence() {
    on_both(async |mut target: Target| {
        target.sql("CREATE TABLE items (k char(9) PRIMARY KEY, v char(9))").await;
        let mut t = Topic::new("items", 1, &[("k", text()), ("v", text())]);
        let mut task = target.open(json!({}), &t.partition).await;
        let record = t.create(vec![s("a"), s("v  ")]);
        done(&mut task, vec![record]).await;
        let record = t.create(vec![s("a "), s("w")]);
        let flushed = deliver(&mut task, vec![record]).await.unwrap();
        assert_eq!(flushed.refused[0].1.code, "KEY_PADDED");
        assert_eq!(target.rows("items").await, "(a,v)");
    })
    .await;
}

#[tokio::test]
async fn zero_in_a_counter_column_stays_zero() {
    on_both(async |mut target: Target| {
        target.sql("CREATE TABLE items (id int AUTO_INCREMENT PRIMARY KEY, u varchar(9), b text)").await;
        let mut t = items();
        let mut task = target.open(json!({}), &t.partition).await;
        let record = t.create(vec![n(0), s("a"), s("x")]);
        done(&mut task, vec![record]).await;
        assert_eq!(target.rows("items").await, "(0,a,x)");
    })
    .await;
}

#[tokio::test]
async fn a_partial_row_of_a_column_that_must_be_given_is_updated_alone() {
    on_both(async |mut target: Target| {
        target.sql("CREATE TABLE items (id int PRIMARY KEY, u varchar(9) NOT NULL, b text)").await;
        let mut t = items();
        let mut task = target.open(json!({}), &t.partition).await;
        let records = vec![t.create(vec![n(1), s("a"), s("x")]), t.create(vec![n(2), s("b"), s("x")])];
        done(&mut task, records).await;
        let records = vec![
            t.update(vec![n(1), ValueRef::Unavailable, s("y")]),
            t.update(vec![n(2), ValueRef::Unavailable, s("z")]),
        ];
        done(&mut task, records).await;
        assert_eq!(target.rows("items").await, "(1,a,y);(2,b,z)");
    })
    .await;
}
