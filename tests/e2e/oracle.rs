//! The judges: topic against ledger, target against source, receiver against topic. Each compares row by row and names the first
//! thing that is wrong.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use serde_json::Value;

use crate::{
    ledger::{COLUMNS, Entry, Event, Ledger, key_text},
    support::{
        daemon::{Daemon, TopicRecord},
        postgres::{Database, Rows, Sql},
        receiver::Receiver,
    },
};

const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// A key's records in a topic, tombstones checked and taken out.
#[derive(Debug)]
struct Told {
    offset: i64,
    op: String,
    after: Value,
}

/// Checks that `topic` tells what the ledger holds of `table`: each change once, in the order of commits per key.
/// `before` are the ledger entries that were committed before the slot existed; only those may be left to the snapshot.
/// Answers how many records were compared.
pub fn topic_equals_ledger(daemon: &Daemon, table: &str, ledger: &Ledger, before: &HashSet<i64>) -> usize {
    let records = daemon.records(&format!("shop.public.{table}"));
    let count = records.len();
    in_order(table, &records, daemon.offsets_have_gaps());
    let mut told = by_key(table, records);
    for ((_, key), entries) in ledger.iter().filter(|((t, _), _)| t == table) {
        let told = told.remove(key).unwrap_or_default();
        if let Err(problem) = compare(entries, &told, before) {
            panic!("{table} {key}: {problem}\nledger: {entries:#?}\ntopic: {told:#?}");
        }
    }
    assert!(told.is_empty(), "{table}: the topic has keys that never committed: {:?}", told.keys());
    count
}

/// Offsets of a partition grow, by one where nothing but records takes them.
fn in_order(table: &str, records: &[TopicRecord], gaps: bool) {
    let mut next: HashMap<i64, i64> = HashMap::new();
    for record in records {
        let expected = next.insert(record.partition, record.offset + 1).unwrap_or(0);
        assert!(record.offset >= expected, "{table}: {} comes after {expected}", record.offset);
        assert!(gaps || record.offset == expected, "{table}: offsets have a gap before {}", record.offset);
    }
}

fn by_key(table: &str, records: Vec<TopicRecord>) -> BTreeMap<String, Vec<Told>> {
    let mut told: BTreeMap<String, Vec<Told>> = BTreeMap::new();
    let mut tombstone_due: HashMap<String, i64> = HashMap::new();
    for record in records {
        let key = key_text(&record.key);
        if record.value.is_null() {
            assert!(
                tombstone_due.remove(&key).is_some(),
                "{table} {key}: a tombstone without a delete at {}",
                record.offset
            );
            continue;
        }
        assert!(
            !tombstone_due.contains_key(&key),
            "{table} {key}: no tombstone between a delete and {}",
            record.offset
        );
        let op = record.value["op"].as_str().unwrap().to_owned();
        if op == "d" {
            tombstone_due.insert(key.clone(), record.offset);
        }
        told.entry(key).or_default().push(Told {
            offset: record.offset,
            op,
            after: record.value["after"].clone(),
        });
    }
    assert!(tombstone_due.is_empty(), "{table}: deletes without a tombstone: {tombstone_due:?}");
    told
}

/// One key. The ledger is a line of events; the topic must be: a run of them, at most one snapshot row in between, and then all
/// events after the state that the snapshot row shows (or, without a snapshot row, the run reaches the end).
fn compare(entries: &[Entry], told: &[Told], before: &HashSet<i64>) -> Result<(), String> {
    let reads: Vec<usize> = (0..told.len()).filter(|i| told[*i].op == "r").collect();
    match reads.as_slice() {
        [] => {
            let start = entries.len().checked_sub(told.len()).ok_or("more records than changes")?;
            same_run(&entries[start..], told)?;
            all_before(&entries[..start], before)?;
            // Without a snapshot row the state at the beginning must be absent, or replaced by the first change.
            let absent = start == 0 || entries[start - 1].event == Event::Delete;
            if told.is_empty() && !absent {
                return Err("the row is in no record".to_owned());
            }
            Ok(())
        }
        [read] => {
            let shown = &told[*read];
            let prefix = entries
                .iter()
                .rposition(|e| matches!(&e.event, Event::Put { image, .. } if image["version"] == shown.after["version"]))
                .ok_or_else(|| format!("the snapshot row at {} never was", shown.offset))?;
            let Event::Put { image, .. } = &entries[prefix].event else { unreachable!() };
            same_image(image, &shown.after, false)?;
            same_run(&entries[prefix + 1..], &told[read + 1..])?;
            if *read == 0 {
                return Ok(());
            }
            // What the stream told before the snapshot read the row: a run that ends no later than what was read.
            let first = &told[..*read];
            let fits = |start: usize| {
                start + first.len() <= prefix + 1
                    && same_run(&entries[start..start + first.len()], first).is_ok()
                    && all_before(&entries[..start], before).is_ok()
            };
            (0..=prefix)
                .any(fits)
                .then_some(())
                .ok_or_else(|| "records before the snapshot row are no run of the ledger".to_owned())
        }
        more => Err(format!("{} snapshot rows", more.len())),
    }
}

fn all_before(entries: &[Entry], before: &HashSet<i64>) -> Result<(), String> {
    match entries.iter().find(|e| !before.contains(&e.seq)) {
        Some(lost) => Err(format!("change {} is in no record", lost.seq)),
        None => Ok(()),
    }
}

fn same_run(entries: &[Entry], told: &[Told]) -> Result<(), String> {
    if entries.len() != told.len() {
        return Err(format!("{} changes, {} records", entries.len(), told.len()));
    }
    for (index, (entry, told)) in entries.iter().zip(told).enumerate() {
        match &entry.event {
            Event::Delete if told.op == "d" => {}
            // A row under a new key whose note did not change: the note is read again, so it may be a later one.
            Event::Put { op, image, same_note: true } if *op == "c" && *op == told.op => {
                let mut expected = image.clone();
                if is_a_note_of(&entries[index..], &told.after["note"]) {
                    expected["note"] = told.after["note"].clone();
                }
                same_image(&expected, &told.after, true)?;
            }
            Event::Put { op, image, same_note } if *op == told.op => {
                same_image(image, &told.after, *same_note)?
            }
            Event::Delete | Event::Put { .. } => {
                return Err(format!("change {} is `{}` at {}", entry.seq, told.op, told.offset));
            }
        }
    }
    Ok(())
}

/// Whether a row of this key has this note, then or at any later time.
fn is_a_note_of(entries: &[Entry], note: &Value) -> bool {
    entries.iter().any(|e| matches!(&e.event, Event::Put { image, .. } if image["note"] == *note))
}

/// `may_lack_note`: an update that left a large `note` alone.
fn same_image(image: &Value, after: &Value, may_lack_note: bool) -> Result<(), String> {
    for (column, expected) in image.as_object().unwrap() {
        let told = &after[column];
        let unavailable = column == "note"
            && may_lack_note
            && told == UNAVAILABLE
            && expected.as_str().is_some_and(|note| note.len() > 1_000);
        if !unavailable && !same_value(expected, told) {
            return Err(format!("version {}: column {column} differs", image["version"]));
        }
    }
    Ok(())
}

/// Decimals are strings in a topic and numbers in the ledger.
fn same_value(expected: &Value, told: &Value) -> bool {
    match (expected, told) {
        (Value::Number(number), Value::String(text)) => number.as_f64() == text.parse().ok(),
        _ => expected == told,
    }
}

/// Waits until the target has every row of the source and no other, all columns; panics with the first difference.
pub fn target_equals_source(daemon: &Daemon, source: &Database, target: &impl Rows) -> usize {
    let mut rows = 0;
    for (table, columns) in COLUMNS {
        let columns: Vec<&str> = columns.split(", ").collect();
        let selected: Vec<String> = columns.iter().map(|column| target.in_source(column)).collect();
        let mut expected = source.sql.rows(&format!("SELECT {} FROM {table}", selected.join(", ")));
        expected.sort_unstable();
        let mut found = Vec::new();
        let deadline = std::time::Instant::now() + Duration::from_secs(120);
        while found != expected && std::time::Instant::now() < deadline {
            found = target.rows_of(table, &columns).unwrap_or_default();
            found.sort_unstable();
            std::thread::sleep(Duration::from_millis(30));
        }
        if found != expected {
            let (wanted, got): (HashSet<_>, HashSet<_>) = (expected.iter().collect(), found.iter().collect());
            let missing = wanted.difference(&got).take(3).collect::<Vec<_>>();
            let extra = got.difference(&wanted).take(3).collect::<Vec<_>>();
            panic!(
                "{table}: source {} rows, target {}\nnot in the target: {missing:?}\nnot in the source: {extra:?}\n{}",
                expected.len(),
                found.len(),
                daemon.explain()
            );
        }
        rows += expected.len();
    }
    rows
}

/// Waits until the receiver accepted every record that is no tombstone, then checks that no id came with two bodies, none is
/// missing, none is invented, and that first deliveries of a key came in order.
pub fn webhooks_equal_topics(daemon: &Daemon, receiver: &Receiver) -> usize {
    let mut expected = HashSet::new();
    for (table, _) in COLUMNS {
        let topic = format!("shop.public.{table}");
        let records = daemon.records(&topic);
        expected.extend(
            records.iter().filter(|r| !r.value.is_null()).map(|r| (topic.clone(), r.partition, r.offset)),
        );
    }
    daemon.until("every record was delivered", || (receiver.accepted() >= expected.len()).then_some(()));
    let mut bodies: HashMap<String, Vec<u8>> = HashMap::new();
    let mut ids: HashMap<(String, i64, i64), String> = HashMap::new();
    let mut newest: HashMap<String, i64> = HashMap::new();
    let mut accepted = HashSet::new();
    for delivery in receiver.deliveries() {
        let body = delivery.json();
        let place = (
            body["topic"].as_str().unwrap().to_owned(),
            body["partition"].as_i64().unwrap(),
            body["offset"].as_i64().unwrap(),
        );
        if let Some(first) = bodies.get(&delivery.id) {
            assert_eq!(*first, delivery.body, "id {} came with two bodies", delivery.id);
        } else {
            let known = ids.insert(place.clone(), delivery.id.clone());
            assert!(known.is_none(), "{place:?} came under two ids");
            let key = format!("{} {}", place.0, key_text(&body["key"]));
            let last = newest.insert(key.clone(), place.2);
            assert!(last.is_none_or(|l| l < place.2), "{key}: {} came first after {last:?}", place.2);
            bodies.insert(delivery.id.clone(), delivery.body.clone());
        }
        if delivery.status == 200 {
            accepted.insert(place);
        }
    }
    let missing: Vec<_> = expected.difference(&accepted).take(5).collect();
    assert!(missing.is_empty(), "never accepted: {missing:?}\n{}", daemon.explain());
    let invented: Vec<_> = accepted.difference(&expected).take(5).collect();
    assert!(invented.is_empty(), "delivered, but in no topic: {invented:?}");
    accepted.len()
}

/// Samples that what the source was told it may forget is durable, until `stop`. The stored position is read after the confirmed
/// one and only grows, so a confirmed position beyond it was confirmed too early.
pub fn watch_confirmed(daemon: &Daemon, source: &Database, admin: &Sql, stop: &AtomicBool) -> u64 {
    let samples = AtomicU64::new(0);
    while !stop.load(Ordering::SeqCst) {
        if let Some(confirmed) = source.confirmed(admin)
            && let Some(stored) = daemon.stored_lsn("shop")
        {
            assert!(confirmed <= stored, "confirmed {confirmed:X} is past the durable {stored:X}");
            samples.fetch_add(1, Ordering::SeqCst);
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    samples.into_inner()
}
