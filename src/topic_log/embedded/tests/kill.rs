//! SIGKILL at random moments, on a real process: acknowledged means whole, nothing is partial, nothing has a gap, and
//! the stored position is that of the records present.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};

use super::*;

const DIR: &str = "ROWSTREAM_TEST_KILL_DIR";
const KILLS: u64 = 200;

/// The records of a transaction: the same bytes whenever they are asked for.
fn records(tx: u64) -> Vec<(String, Vec<Vec<u8>>)> {
    let mut random = Random(tx);
    let batches = 1 + random.below(4);
    let large = random.below(40) == 0;
    let batch = |_| {
        let topic = format!("t{}", random.below(3));
        let values = (0..=random.below(3)).map(|_| {
            let len = if large { 60_000 } else { 600 };
            let len = random.below(len);
            let filler = random.bytes(len);
            [&tx.to_le_bytes(), filler.as_slice()].concat()
        });
        (topic, values.collect())
    };
    (0..batches).map(batch).collect()
}

/// Not a test by itself: what the loop below starts and kills.
#[tokio::test]
async fn writer_child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let log = open(Path::new(&dir)).await;
    let mut writer = log.writer("w").await.unwrap();
    let mut tx = tx_of(&log.source_offsets("c").await.unwrap());
    let mut pending = std::collections::VecDeque::new();
    loop {
        tx += 1;
        let batches = records(tx).iter().map(|(topic, values)| to(topic, values)).collect();
        pending.push_back((tx, writer.append(group(tx, batches)).await.unwrap()));
        while pending.len() > 20 {
            let (tx, outcome) = pending.pop_front().unwrap();
            outcome.await.unwrap();
            let mut out = std::io::stdout().lock();
            writeln!(out, "acknowledged {tx}").unwrap();
            out.flush().unwrap();
        }
    }
}

pub(super) fn start(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "topic_log::embedded::tests::kill::writer_child", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Listens to what a child acknowledges until it is dead.
pub(super) struct Acknowledged(std::thread::JoinHandle<Option<u64>>);

impl Acknowledged {
    pub(super) fn follow(child: &mut Child) -> Self {
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self(std::thread::spawn(move || {
            let last = lines.map_while(Result::ok).filter_map(|line| {
                line.split_once("acknowledged ").and_then(|(_, tx)| tx.parse::<u64>().ok())
            });
            last.last()
        }))
    }
    /// The last one; 0 for none.
    pub(super) fn last(self) -> u64 {
        self.0.join().unwrap().unwrap_or(0)
    }
}

/// What is checked so far, so that each look reads only what is new.
#[derive(Default)]
pub(super) struct Checked {
    pub(super) tx: u64,
    next: BTreeMap<TopicPartition, i64>,
}

pub(super) async fn check(dir: &Path, acknowledged: u64, checked: &mut Checked) {
    let log = open(dir).await;
    let tx = tx_of(&log.source_offsets("c").await.unwrap());
    assert!(tx >= acknowledged, "{acknowledged} was acknowledged, the log stands at {tx}");
    let mut wanted: BTreeMap<TopicPartition, Vec<Vec<u8>>> = BTreeMap::new();
    for (topic, values) in (checked.tx + 1..=tx).flat_map(records) {
        wanted.entry(TopicPartition::new(topic, 0)).or_default().extend(values);
    }
    let found = read_from(&log, &checked.next).await.unwrap();
    for (partition, values) in found {
        let next = checked.next.entry(partition.clone()).or_default();
        *next += i64::try_from(values.len()).unwrap();
        let wanted = wanted.remove(&partition).unwrap_or_default();
        assert!(values.into_values().eq(wanted), "{partition} up to {tx} differs");
    }
    assert!(wanted.is_empty(), "records of {:?} are missing", wanted.keys());
    checked.tx = tx;
    log.close().await.unwrap();
}

#[tokio::test]
async fn killed_at_random_moments_the_log_keeps_its_promise() {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (dir, mut random) = (tempfile::tempdir().unwrap(), Random(seed));
    let (mut acknowledged, mut checked) = (0, Checked::default());
    for _ in 0..KILLS {
        let mut child = start(dir.path());
        let acknowledging = Acknowledged::follow(&mut child);
        // The moment is the point: from before the log is open to some sealed segments later.
        std::thread::sleep(Duration::from_micros(random.below(250_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = acknowledging.last().max(acknowledged);
        // Otherwise the next child recovers, and may be killed while it does.
        if random.below(3) > 0 {
            check(dir.path(), acknowledged, &mut checked).await;
        }
    }
    check(dir.path(), acknowledged, &mut checked).await;
    // And all of it once more, from the beginning.
    check(dir.path(), acknowledged, &mut Checked::default()).await;
    assert!(checked.tx > 100, "only {} transactions were written", checked.tx);
    let segments = crate::topic_log::embedded::segment::list(dir.path()).unwrap().len();
    assert!(segments > 2, "no segment was sealed");
}
