//! Writers at work on tables with a ledger, and what a reader of their events has.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rowstream_api::Op;

use super::{Database, Event};

pub const WRITE_LOAD: &str = "
CREATE SEQUENCE version;
CREATE TABLE audit (n bigserial, tab text, op text, id text, ver int8);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'DELETE' THEN INSERT INTO audit (tab, op, id, ver) VALUES (TG_TABLE_NAME, 'd', OLD.id, OLD.ver);
    ELSIF TG_OP = 'UPDATE' THEN INSERT INTO audit (tab, op, id, ver) VALUES (TG_TABLE_NAME, 'u', NEW.id, NEW.ver);
    ELSE INSERT INTO audit (tab, op, id, ver) VALUES (TG_TABLE_NAME, 'c', NEW.id, NEW.ver); END IF;
    RETURN NULL; END $$;
CREATE TABLE t_a (id int PRIMARY KEY, ver int8, pad text);
ALTER TABLE t_a REPLICA IDENTITY FULL;
CREATE TABLE t_b (pad text, id text, ver int8, PRIMARY KEY (id));
CREATE TABLE t_c (id int, ver int8); ALTER TABLE t_c REPLICA IDENTITY FULL;
INSERT INTO t_a SELECT g, nextval('version'), repeat('p', 50) FROM generate_series(1, 3000) g;
INSERT INTO t_b SELECT 'q', g::text, nextval('version') FROM generate_series(1, 3000) g;
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON t_a FOR EACH ROW EXECUTE FUNCTION audit();
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON t_b FOR EACH ROW EXECUTE FUNCTION audit();
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON t_c FOR EACH ROW EXECUTE FUNCTION audit()";

pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

pub async fn write(
    db: &Database,
    seed: u64,
    tables: &'static [&'static str],
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> tokio::task::JoinSet<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..3 {
        let connection = db.connect().await;
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        let mut dice = Dice(seed * 31 + writer);
        tasks.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let mut sql = String::from("BEGIN;");
                for _ in 0..=dice.roll(4) {
                    let table = tables[usize::try_from(dice.roll(tables.len() as u64)).unwrap()];
                    let id = dice.roll(4000) + 1;
                    sql += &match dice.roll(5) {
                        0 => format!("DELETE FROM {table} WHERE id = '{id}';"),
                        1 => format!("INSERT INTO {table} (id, ver) SELECT '{id}', nextval('version') WHERE NOT EXISTS (SELECT FROM {table} WHERE id = '{id}') ON CONFLICT DO NOTHING;"),
                        2 => format!("SAVEPOINT s; UPDATE {table} SET ver = nextval('version') WHERE id = '{id}'; ROLLBACK TO s;"),
                        _ => format!("UPDATE {table} SET ver = nextval('version') WHERE id = '{id}';"),
                    };
                }
                if dice.roll(10) == 0 {
                    let (from, to) = (dice.roll(4000) + 1, 5000 + done.fetch_add(1, Ordering::SeqCst));
                    sql += &format!("UPDATE t_a SET id = {to}, ver = nextval('version') WHERE id = {from};");
                }
                sql += if dice.roll(8) == 0 { "ROLLBACK" } else { "COMMIT" };
                // Writers may deadlock with each other; that transaction did not happen.
                if connection.client.batch_execute(&sql).await.is_err() {
                    connection.client.batch_execute("ROLLBACK").await.unwrap();
                }
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    tasks
}

/// Columns of a table's rows: where id and version stand.
pub fn id_and_version(e: &Event, row: &[String]) -> (String, Option<i64>) {
    let at = |name: &str| e.table.value.field(name).unwrap().0;
    (row[at("id")].clone(), row[at("ver")].parse().ok())
}

pub fn table_of(e: &Event) -> String {
    e.topic.rsplit('.').next().unwrap().to_owned()
}

/// Applies events in order and checks that no key ever goes back to an older state.
pub fn apply(events: &[Event]) -> BTreeMap<(String, String), i64> {
    let mut state: BTreeMap<(String, String), i64> = BTreeMap::new();
    let mut newest: HashMap<(String, String), i64> = HashMap::new();
    let mut read: HashSet<(String, String)> = HashSet::new();
    for e in events {
        let table = table_of(e);
        if let Some(before) = &e.before
            && (e.rekey || e.op == Op::Delete)
        {
            let (id, _) = id_and_version(e, before);
            state.remove(&(table.clone(), id));
        }
        let Some(after) = &e.after else { continue };
        let (id, version) = id_and_version(e, after);
        let (key, version) = ((table, id), version.unwrap());
        let last = newest.get(&key).copied().unwrap_or(0);
        if e.op == Op::Read {
            assert!(version >= last, "a stale row after a newer event: {key:?} {version} after {last}");
            assert!(read.insert(key.clone()), "row {key:?} was read twice");
        } else {
            assert!(version > last, "an older or repeated event: {key:?} {version} after {last}");
        }
        newest.insert(key.clone(), version);
        state.insert(key, version);
    }
    state
}

pub async fn ledger(db: &Database, after: i64) -> Vec<(String, String, String, i64)> {
    let rows = db
        .sql
        .client
        .query("SELECT tab, op, id, ver FROM audit WHERE n > $1 ORDER BY n", &[&after])
        .await
        .unwrap();
    rows.iter().map(|r| (r.get(0), r.get(1), r.get(2), r.get(3))).collect()
}
