//! The ledger: what committed, written by triggers inside the writers' own transactions, so it is known exactly, whatever a
//! client saw. For one key the ledger's order is the order of commits: a writer holds the row's lock from the moment it
//! draws the number until it commits.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::postgres::Sql;

/// The tables of the workload, and their ledger in a schema that nobody captures.
pub const TABLES: &str = "
CREATE TABLE customers (id int PRIMARY KEY, version bigint NOT NULL, name text, vip boolean, note text);
ALTER TABLE customers ALTER note SET STORAGE EXTERNAL;
CREATE TABLE orders (region text, id bigint, version bigint NOT NULL, customer int, amount numeric(12,2),
    at timestamptz DEFAULT clock_timestamp(), note text, PRIMARY KEY (region, id));
ALTER TABLE orders ALTER note SET STORAGE EXTERNAL;
CREATE TABLE visits (id bigint PRIMARY KEY, version bigint NOT NULL, page text, note text);
CREATE SCHEMA audit;
CREATE SEQUENCE audit.version;
CREATE TABLE audit.ledger (seq bigserial PRIMARY KEY, txid xid8 DEFAULT pg_current_xact_id(), tbl text NOT NULL,
    op text NOT NULL, old_key jsonb, new_key jsonb, image jsonb, same_note boolean);
CREATE FUNCTION audit.key_of(image jsonb, columns text[]) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
    $$ SELECT jsonb_object_agg(c, image -> c) FROM unnest(columns) c $$;
CREATE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO audit.ledger (tbl, op, new_key, image)
            VALUES (TG_TABLE_NAME, 'c', audit.key_of(to_jsonb(NEW), TG_ARGV), to_jsonb(NEW) - 'at');
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO audit.ledger (tbl, op, old_key, new_key, image, same_note)
            VALUES (TG_TABLE_NAME, 'u', audit.key_of(to_jsonb(OLD), TG_ARGV), audit.key_of(to_jsonb(NEW), TG_ARGV),
                    to_jsonb(NEW) - 'at', NEW.note IS NOT DISTINCT FROM OLD.note);
    ELSE
        INSERT INTO audit.ledger (tbl, op, old_key) VALUES (TG_TABLE_NAME, 'd', audit.key_of(to_jsonb(OLD), TG_ARGV));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER ledger AFTER INSERT OR UPDATE OR DELETE ON customers FOR EACH ROW EXECUTE FUNCTION audit.note('id');
CREATE TRIGGER ledger AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION audit.note('region', 'id');
CREATE TRIGGER ledger AFTER INSERT OR UPDATE OR DELETE ON visits FOR EACH ROW EXECUTE FUNCTION audit.note('id');
";

/// Each table with all its columns.
pub const COLUMNS: &[(&str, &str)] = &[
    ("customers", "id, version, name, vip, note"),
    ("orders", "region, id, version, customer, amount, at, note"),
    ("visits", "id, version, page, note"),
];

/// What happened to one key.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Inserted, or updated to this image.
    Put {
        /// `c` or `u`.
        op: String,
        image: Value,
        /// The update left `note` alone, so the stream may lack a large one.
        same_note: bool,
    },
    Delete,
}

/// One event and its place in the ledger.
#[derive(Debug, Clone)]
pub struct Entry {
    pub seq: i64,
    pub event: Event,
}

/// A key as text that does not depend on the order of its columns.
pub fn key_text(key: &Value) -> String {
    let fields: BTreeMap<&String, &Value> =
        key.as_object().unwrap_or_else(|| panic!("no key: {key}")).iter().collect();
    serde_json::to_string(&fields).unwrap()
}

/// Events by table and key, in order of commit.
pub type Ledger = BTreeMap<(String, String), Vec<Entry>>;

/// Reads it whole.
pub fn read(sql: &Sql) -> Ledger {
    let mut ledger = Ledger::new();
    let rows =
        sql.rows("SELECT seq, tbl, op, old_key, new_key, image, same_note FROM audit.ledger ORDER BY seq");
    for row in rows {
        let [seq, table, op, old_key, new_key, image, same_note]: [Option<String>; 7] =
            row.try_into().unwrap();
        let (seq, table, op) = (seq.unwrap().parse().unwrap(), table.unwrap(), op.unwrap());
        let json = |text: Option<String>| text.map(|t| serde_json::from_str::<Value>(&t).unwrap());
        let (old, new) = (json(old_key).map(|k| key_text(&k)), json(new_key).map(|k| key_text(&k)));
        let mut add = |key: String, event: Event| {
            ledger.entry((table.clone(), key)).or_default().push(Entry { seq, event });
        };
        let moved = op == "u" && old != new;
        if op == "d" || moved {
            add(old.unwrap(), Event::Delete);
        }
        if let Some(image) = json(image) {
            // A changed key is a delete and an insert. The server leaves an unchanged large value out of it all the same.
            let op = if moved { "c".to_owned() } else { op };
            let same_note = same_note.as_deref() == Some("t");
            add(new.unwrap(), Event::Put { op, image, same_note });
        }
    }
    ledger
}

/// Numbers of the ledger's entries that are committed now.
pub fn committed_now(sql: &Sql) -> std::collections::HashSet<i64> {
    sql.rows("SELECT seq FROM audit.ledger")
        .into_iter()
        .map(|r| r[0].as_ref().unwrap().parse().unwrap())
        .collect()
}
