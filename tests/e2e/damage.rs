//! The disk lets us down: full, or not what was written.

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use crate::support::{
    daemon::Daemon,
    note,
    postgres::Database,
    rig::{self, Rig},
};

/// A small file system, where the test may mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("rowstream-disk-").tempdir().unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(directory.path())
            .output();
        mounted.is_ok_and(|o| o.status.success()).then(|| Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// A full disk stops the writer, says so, loses nothing, and heals when there is room.
#[test]
fn full_disk_is_told_and_survived() {
    let Some(disk) = SmallDisk::mount("48m") else {
        note("SKIPPED full_disk_is_told_and_survived: this user may not mount a tmpfs");
        return;
    };
    let ballast = disk.0.path().join("ballast");
    let source = Database::new("full");
    source.sql.run("CREATE TABLE orders (id bigint PRIMARY KEY, version bigint, note text)");
    let daemon = Daemon::new(
        json!({ "data_dir": disk.0.path().join("data"), "topic_log": { "segment_size": "1MiB" } }),
    );
    daemon.connector(&rig::source(&source, json!({})));
    daemon.start();
    // RUNNING says that the task runs, not yet that it has a slot: what is written before that comes by the snapshot.
    daemon.until_streaming("shop");
    std::fs::write(&ballast, vec![7; 30 << 20]).unwrap();
    source
        .sql
        .run("INSERT INTO orders SELECT i, i, repeat(md5(i::text), 30) FROM generate_series(1, 40000) i");
    let told = daemon.until("the full disk is told", || {
        let ready = daemon.try_get("/readyz").filter(|a| a.status != 200)?.text();
        (ready.contains("full") || ready.contains("space")).then_some(ready)
    });
    assert!(told.contains("space") || told.contains("full"), "{told}");
    let admin = source.connect();
    let written = source.sql.number("SELECT (pg_current_wal_lsn() - '0/0')::int8");
    assert!(
        i64::try_from(source.confirmed(&admin).unwrap()).unwrap() < written,
        "confirmed what is not stored"
    );

    std::fs::remove_file(&ballast).unwrap();
    // 40 MB of rows do not fit in 48 MB beside two segments of head-room: only what fits must be told, exactly once.
    daemon.until("it goes on when there is room", || {
        daemon.topic_end("shop.public.orders").filter(|end| *end > 10_000)
    });
    let records = daemon.records("shop.public.orders");
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record.key["id"], json!(index + 1), "a change is missing or doubled");
    }
    daemon.kill();
    drop(daemon);
    drop(source);
}

/// One flipped byte in a segment: the file and the place are named, nothing is skipped, nothing is invented, and the byte
/// put back makes it whole.
#[test]
fn flipped_byte_in_a_segment_is_named() {
    let rig = Rig::orders(3_000);
    rig.daemon.start();
    rig.until_same();
    rig.daemon.stop();
    rig.target.sql.run("DROP TABLE orders");
    // A connector that has read nothing yet reads from the beginning.
    rig.daemon.remove_connector("warehouse");
    let mut reader = rig::sink(&rig.target, json!({}));
    reader["name"] = json!("reader");
    rig.daemon.connector(&reader);
    let (segment, place) = place_of(b"row 1500", &rig.daemon.data_dir());
    let was = flip(&segment, place);

    rig.daemon.spawn();
    let told = rig.daemon.until("the damage is told", || {
        let log = rig.daemon.log();
        let status = rig.daemon.state("reader").map(|(_, trace)| trace).unwrap_or_default();
        [log, status].into_iter().find(|t| t.contains("damaged"))
    });
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(told.contains(name), "the file {name} is not named: {told}");
    let present = rig.target.sql.one("SELECT to_regclass('orders')").is_some();
    let delivered = if present { rig.target.sql.number("SELECT count(*) FROM orders") } else { 0 };
    assert!(delivered < 3_000, "the damaged records were delivered all the same");
    rig.daemon.kill();

    let file = OpenOptions::new().write(true).open(&segment).unwrap();
    file.write_all_at(&[was], place).unwrap();
    rig.daemon.start();
    rig.until_same();
}

/// The segment that holds this text, and where. A byte of a record is one that every reader of its topic comes across; not so one of
/// what stands between records, such as the source's position.
fn place_of(text: &[u8], directory: &Path) -> (PathBuf, u64) {
    let mut pending = vec![directory.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if let Some(place) =
                std::fs::read(&path).unwrap().windows(text.len()).position(|at| at == text)
            {
                return (path, place as u64);
            }
        }
    }
    panic!("no segment holds the record")
}

/// Changes the byte at a place; answers what it was.
fn flip(path: &Path, place: u64) -> u8 {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], place).unwrap();
    byte[0]
}
