//! The disk lets us down: full, or not what was written.

use std::{fs::OpenOptions, os::unix::fs::FileExt, path::PathBuf, process::Command};

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
    let segment = largest_segment(&rig.daemon.data_dir());
    let (place, was) = flip(&segment, |byte| byte ^ 0x40);

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

/// The segment with the most records in it. Segments are allocated ahead, so the size on disk decides.
fn largest_segment(directory: &std::path::Path) -> PathBuf {
    let mut best: Option<(u64, PathBuf)> = None;
    let mut pending = vec![directory.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
                continue;
            }
            let is_state = path.extension().is_some_and(|e| e == "redb")
                || path.file_name().is_some_and(|n| n == "LOCK");
            let filled = std::fs::read(&path).unwrap().iter().filter(|b| **b != 0).count() as u64;
            if !is_state && best.as_ref().is_none_or(|(most, _)| filled > *most) {
                best = Some((filled, path));
            }
        }
    }
    best.expect("the log has segments").1
}

/// Changes a byte in the middle of what is filled; answers where, and what it was.
fn flip(path: &std::path::Path, change: impl Fn(u8) -> u8) -> (u64, u8) {
    let content = std::fs::read(path).unwrap();
    let end = content.iter().rposition(|b| *b != 0).unwrap();
    let place = end / 2;
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[change(content[place])], place as u64).unwrap();
    (place as u64, content[place])
}
