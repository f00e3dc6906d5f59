//! A kill, a failed call or a full disk at each named point.

use std::{
    io::Write as _,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::*;
use crate::topic_log::embedded::{Failpoint, Failpoints};

/// Calls `act` at the `nth` time (from 1) that `point` is reached.
fn at(
    point: Failpoint,
    nth: usize,
    act: impl Fn() -> std::io::Result<()> + Send + Sync + 'static,
) -> Failpoints {
    let count = Mutex::new(0);
    Failpoints::new(move |hit| {
        if hit != point {
            return Ok(());
        }
        *count.lock().unwrap() += 1;
        if *count.lock().unwrap() == nth { act() } else { Ok(()) }
    })
}

fn failing(point: Failpoint, nth: usize, kind: std::io::ErrorKind) -> Failpoints {
    at(point, nth, move || Err(kind.into()))
}

/// The files as a kill at that moment would leave them.
fn killed_at(point: Failpoint, nth: usize, from: &Path, to: &Path) -> Failpoints {
    let (from, to): (PathBuf, PathBuf) = (from.into(), to.into());
    at(point, nth, move || {
        copy(&from, &to);
        Ok(())
    })
}

fn record(tx: u64) -> Vec<u8> {
    [tx.to_string().as_bytes(), &[b'.'; 20_000]].concat()
}

/// Topic `a` holds exactly the records of transactions 1 to `tx`, which is also the stored position.
async fn check(log: &EmbeddedLog, tx: u64) {
    assert_eq!(tx_of(&log.source_offsets("c").await.unwrap()), tx);
    let found = read_all(log).await.unwrap().remove(&TopicPartition::new("a", 0)).unwrap_or_default();
    assert!(found.into_values().eq((1..=tx).map(record)), "not the records of {tx} transactions");
}

async fn write(log: &EmbeddedLog, txs: std::ops::RangeInclusive<u64>) {
    let mut writer = log.writer("w").await.unwrap();
    for tx in txs {
        commit(&mut writer, group(tx, vec![to("a", &[record(tx)])])).await.unwrap();
    }
}

fn small(dir: &Path, failpoints: Failpoints) -> EmbeddedConfig {
    EmbeddedConfig { segment_bytes: 128 << 10, failpoints, ..EmbeddedConfig::new(dir) }
}

async fn open_small(dir: &Path, failpoints: Failpoints) -> Arc<EmbeddedLog> {
    EmbeddedLog::open(small(dir, failpoints)).await.unwrap()
}

#[tokio::test]
async fn a_kill_at_any_point_leaves_whole_groups_and_the_log_goes_on() {
    for (point, nth, wanted) in [
        (Failpoint::SegmentWrite, 1, 0),
        (Failpoint::SegmentWrite, 10, 9),
        (Failpoint::SegmentWritten, 10, 10),
        (Failpoint::SegmentSynced, 1, 1),
        (Failpoint::SegmentSynced, 10, 10),
        // The first group of a segment: its file is new, and the old one is sealed.
        (Failpoint::SegmentSynced, 7, 7),
        (Failpoint::SegmentCreate, 2, 12),
        (Failpoint::Sealing, 2, 12),
    ] {
        let (dir, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let log = open_small(dir.path(), killed_at(point, nth, dir.path(), after.path())).await;
        write(&log, 1..=20).await;
        let log = open_small(after.path(), Failpoints::default()).await;
        check(&log, wanted).await;
        write(&log, wanted + 1..=30).await;
        check(&log, 30).await;
        log.close().await.unwrap();
        check(&*open_small(after.path(), Failpoints::default()).await, 30).await;
    }
}

#[tokio::test]
async fn a_kill_while_recovering_changes_nothing() {
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let log =
        open_small(dirs[0].path(), killed_at(Failpoint::SegmentSynced, 10, dirs[0].path(), dirs[1].path()))
            .await;
    write(&log, 1..=10).await;
    let again = killed_at(Failpoint::Recovered, 1, dirs[1].path(), dirs[2].path());
    check(&*open_small(dirs[1].path(), again).await, 10).await;
    check(&*open_small(dirs[2].path(), Failpoints::default()).await, 10).await;
}

#[tokio::test]
async fn a_torn_tail_is_cut() {
    let (dir, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = open_small(dir.path(), killed_at(Failpoint::SegmentSynced, 3, dir.path(), after.path())).await;
    write(&log, 1..=3).await;
    let segment = crate::topic_log::embedded::segment::path(after.path(), 0);
    let whole = std::fs::read(&segment).unwrap();
    let end = whole.iter().rposition(|&b| b != 0).unwrap();
    for cut in [end - 1, end - 40, end - 10_000, end - 20_100] {
        let torn = tempfile::tempdir().unwrap();
        copy(after.path(), torn.path());
        let mut bytes = whole.clone();
        bytes[cut..].fill(0);
        std::fs::write(crate::topic_log::embedded::segment::path(torn.path(), 0), bytes).unwrap();
        let log = open_small(torn.path(), Failpoints::default()).await;
        check(&log, 2).await;
        write(&log, 3..=20).await;
        check(&log, 20).await;
    }
}

#[tokio::test]
async fn a_database_one_commit_old_is_rolled_forward_and_an_older_one_refused() {
    // Transaction 6 is the last of the first segment, 7 the first of the second.
    for (last_known, last_written) in [(3, 4), (6, 7), (7, 8), (3, 5), (6, 8), (3, 30), (7, 30)] {
        let (dir, old) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let log = open_small(dir.path(), Failpoints::default()).await;
        write(&log, 1..=last_known).await;
        log.close().await.unwrap();
        copy(dir.path(), old.path());
        let nth = usize::try_from(last_written - last_known).unwrap();
        let after = tempfile::tempdir().unwrap();
        let log =
            open_small(dir.path(), killed_at(Failpoint::SegmentSynced, nth, dir.path(), after.path())).await;
        write(&log, last_known + 1..=last_written).await;
        std::fs::copy(old.path().join("state.redb"), after.path().join("state.redb")).unwrap();
        let opened = EmbeddedLog::open(small(after.path(), Failpoints::default())).await;
        if last_written == last_known + 1 {
            check(&opened.unwrap(), last_written).await;
        } else {
            let Err(error) = opened else { panic!("{last_known} was opened at {last_written}") };
            assert!(matches!(error, LogError::Corrupt { .. }), "{error}");
            assert!(error.to_string().contains("state.redb"), "{error}");
        }
    }
}

#[tokio::test]
async fn missing_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_small(dir.path(), Failpoints::default()).await;
    write(&log, 1..=20).await;
    log.close().await.unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let without = tempfile::tempdir().unwrap();
        copy(dir.path(), without.path());
        std::fs::remove_file(without.path().join(&name)).unwrap();
        match EmbeddedLog::open(small(without.path(), Failpoints::default())).await {
            Ok(log) => {
                assert!(["lock", "reserve"].contains(&name.as_str()), "{name}");
                check(&log, 20).await;
            }
            Err(error) => assert!(error.to_string().contains(&name), "{name}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_failed_write_or_sync_aborts_the_group_and_what_its_writer_queued_behind() {
    for (point, nth) in
        [(Failpoint::SegmentWrite, 3), (Failpoint::SegmentWritten, 3), (Failpoint::SegmentWritten, 1)]
    {
        let dir = tempfile::tempdir().unwrap();
        let log = open_small(dir.path(), failing(point, nth, std::io::ErrorKind::Other)).await;
        let good = u64::try_from(nth).unwrap() - 1;
        write(&log, 1..=good).await;
        let mut writer = log.writer("w").await.unwrap();
        writer.partitions("a").await.unwrap();
        let mut pending = Vec::new();
        for tx in 101..=150 {
            pending.push(writer.append(group(tx, vec![to("a", &[record(tx)])])).await.unwrap());
        }
        for outcome in futures::future::join_all(pending).await {
            assert!(matches!(outcome, Err(CommitError::Aborted(_))), "{outcome:?}");
        }
        let empty = commit(&mut writer, group(151, vec![])).await;
        assert!(matches!(empty, Err(CommitError::Aborted(_))), "{empty:?}");
        check(&log, good).await;
        write(&log, good + 1..=9).await;
        check(&log, 9).await;
        let after = tempfile::tempdir().unwrap();
        copy(dir.path(), after.path());
        check(&*open_small(after.path(), Failpoints::default()).await, 9).await;
    }
}

#[tokio::test]
async fn after_an_unknown_outcome_the_log_reopens_in_place_and_says_what_happened() {
    for (point, nth) in [
        (Failpoint::SegmentSynced, 3),
        (Failpoint::SegmentSynced, 7),
        // Commits before: opening the log's topic and writer, and two groups.
        (Failpoint::StateCommitted, 5),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let log = open_small(dir.path(), failing(point, nth, std::io::ErrorKind::Other)).await;
        let mut reader = log.reader("", TopicFilter::new(["a"])).await.unwrap();
        let mut writer = log.writer("w").await.unwrap();
        let mut tx = 1;
        let outcome = loop {
            let outcome = commit(&mut writer, group(tx, vec![to("a", &[record(tx)])])).await;
            if outcome.is_err() {
                break outcome;
            }
            tx += 1;
        };
        assert!(matches!(outcome, Err(CommitError::Unknown(_))), "{outcome:?}");
        let poisoned = commit(&mut writer, group(99, vec![])).await;
        assert!(matches!(poisoned, Err(CommitError::Aborted(_))), "{poisoned:?}");
        // Synced, so it is there; the position says so.
        check(&log, tx).await;
        write(&log, tx + 1..=12).await;
        check(&log, 12).await;
        let partition = gained(&mut reader).await.remove(0);
        reader.seek(&partition, SeekTo::Offset(11)).unwrap();
        assert_eq!(values(&next_batch(&mut reader).await), [record(12)]);
    }
}

#[tokio::test]
async fn a_full_disk_makes_writers_wait_and_nobody_else_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let failpoints = Failpoints::new({
        let full = Arc::clone(&full);
        move |point| {
            if point == Failpoint::FreeSpace && full.load(Ordering::SeqCst) {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            Ok(())
        }
    });
    let config =
        EmbeddedConfig { retention_interval: Duration::from_millis(100), ..small(dir.path(), failpoints) };
    let log = EmbeddedLog::open(config).await.unwrap();
    let mut writer = log.writer("w").await.unwrap();
    commit(&mut writer, group(1, vec![to("a", &[record(1)])])).await.unwrap();
    full.store(true, Ordering::SeqCst);
    let mut waiting = Vec::new();
    for tx in 2..=4 {
        waiting.push(writer.append(group(tx, vec![to("a", &[record(tx)])])).await.unwrap());
    }
    // Goes through while the groups wait: it was sent after them.
    log.commit_group_offsets("g", [(TopicPartition::new("a", 0), 1)].into()).await.unwrap();
    let blocked = log.health().blocked.expect("says that writers wait");
    assert!(blocked.contains("no space left") && blocked.contains(dir.path().to_str().unwrap()), "{blocked}");
    check(&log, 1).await;
    let waiting = futures::future::join_all(waiting);
    futures::pin_mut!(waiting);
    assert!(futures::FutureExt::now_or_never(&mut waiting).is_none());
    full.store(false, Ordering::SeqCst);
    for outcome in tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap() {
        outcome.unwrap();
    }
    assert_eq!(log.health().blocked, None);
    check(&log, 4).await;
}

#[tokio::test]
async fn no_room_for_a_segment_aborts_and_the_same_handle_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let failpoints = failing(Failpoint::SegmentCreate, 1, std::io::ErrorKind::StorageFull);
    let log = open_small(dir.path(), failpoints).await;
    write(&log, 1..=6).await;
    let mut writer = log.writer("w").await.unwrap();
    let outcome = commit(&mut writer, group(7, vec![to("a", &[record(7)])])).await;
    assert!(matches!(outcome, Err(CommitError::Aborted(LogError::DiskFull { .. }))), "{outcome:?}");
    check(&log, 6).await;
    write(&log, 7..=20).await;
    check(&log, 20).await;
}

/// A file system of its own, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where this process may not mount.
    fn new(mib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status();
        mount.is_ok_and(|status| status.success()).then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[tokio::test]
async fn a_disk_that_is_really_full_loses_nothing_and_the_same_handle_goes_on() {
    let Some(disk) = SmallDisk::new(48) else {
        writeln!(std::io::stderr(), "skipped: this process may not mount a tmpfs").unwrap();
        return;
    };
    let dir = disk.0.path().join("log");
    let config = EmbeddedConfig { retention_interval: Duration::from_millis(100), ..config(&dir) };
    let log = EmbeddedLog::open(config).await.unwrap();
    write(&log, 1..=50).await;
    // Every byte of the file system, by somebody else.
    let filler = disk.0.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let mut writer = log.writer("w").await;
    let waiting = match &mut writer {
        Ok(writer) => Some(writer.append(group(51, vec![to("a", &[record(51)])])).await.unwrap()),
        Err(_) => None,
    };
    // The database must grow for this, and cannot for ever.
    let mut refused = 0;
    for n in 0..400 {
        let value = bytes::Bytes::from(vec![n.to_string().into_bytes()[0]; 100_000]);
        let put = crate::topic_log::StateOp::Put { table: "t".into(), key: n.to_string(), value };
        if log.state().write(vec![put]).await.is_err() {
            refused += 1;
            break;
        }
    }
    assert_eq!(refused, 1, "the disk was not full");
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    let good = match waiting {
        Some(waiting) => match tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap() {
            Ok(()) => 51,
            Err(CommitError::Aborted(_)) => 50,
            Err(error) => panic!("{error:?}"),
        },
        None => 50,
    };
    let reopened = async {
        while log.writer("w").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reopened).await.unwrap();
    check(&log, good).await;
    write(&log, good + 1..=80).await;
    check(&log, 80).await;
    log.close().await.unwrap();
    check(&*open_small(&dir, Failpoints::default()).await, 80).await;
}
