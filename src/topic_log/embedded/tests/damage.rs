//! Flipped bytes: named or harmless, never silently different.

use bytes::Bytes;

use super::*;
use crate::topic_log::StateOp;

/// Everything that can be asked of a log.
#[derive(Debug, PartialEq)]
struct Whole {
    id: String,
    records: BTreeMap<TopicPartition, Values>,
    offsets: SourceOffsets,
    group: rowstream_api::TopicOffsets,
    state: Vec<(String, Bytes)>,
}

async fn whole(dir: &Path) -> Result<Whole, LogError> {
    let log = EmbeddedLog::open(EmbeddedConfig { segment_bytes: 128 << 10, ..config(dir) }).await?;
    let whole = read_whole(&log).await;
    log.close().await?;
    whole
}

async fn read_whole(log: &EmbeddedLog) -> Result<Whole, LogError> {
    Ok(Whole {
        id: log.id().to_owned(),
        records: read_all(log).await?,
        offsets: log.source_offsets("c").await?,
        group: log.group_offsets("g").await?,
        state: log.state().scan("t").await?,
    })
}

/// Another one each time: what fails names the place.
fn seed() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

async fn fill(dir: &Path) {
    let log = EmbeddedLog::open(EmbeddedConfig { segment_bytes: 128 << 10, ..config(dir) }).await.unwrap();
    let mut writer = log.writer("w").await.unwrap();
    let mut random = Random(1);
    for tx in 1..=80 {
        let batches = (0..3).map(|n| to(&format!("t{n}"), &[random.bytes(300), random.bytes(2_000)]));
        commit(&mut writer, group(tx, batches.collect())).await.unwrap();
        let value = Bytes::from(random.bytes(20));
        log.state()
            .write(vec![StateOp::Put { table: "t".into(), key: tx.to_string(), value }])
            .await
            .unwrap();
    }
    log.commit_group_offsets("g", [(TopicPartition::new("t0", 0), 9)].into()).await.unwrap();
    log.close().await.unwrap();
}

#[tokio::test]
async fn a_flipped_byte_is_named_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let (scratch, wanted) = (tempfile::tempdir().unwrap(), {
        let first = tempfile::tempdir().unwrap();
        copy(dir.path(), first.path());
        whole(first.path()).await.unwrap()
    });
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names.retain(|name| name != "reserve");
    assert!(names.len() > 4, "{names:?}");
    let (mut random, mut named) = (Random(seed()), 0);
    for round in 0..200 {
        copy(dir.path(), scratch.path());
        // Half of them in the database, which is the smaller file and the one that decides.
        let pick = usize::try_from(random.next()).unwrap_or(usize::MAX);
        let name = if round % 2 == 0 { "state.redb" } else { names[pick % names.len()].as_str() };
        let path = scratch.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        if bytes.is_empty() {
            continue;
        }
        let position = usize::try_from(random.below(bytes.len() as u64)).unwrap();
        bytes[position] ^= 1 << random.below(8);
        std::fs::write(&path, bytes).unwrap();
        match whole(scratch.path()).await {
            Ok(found) => assert!(found == wanted, "a bit of byte {position} of {name} changed what is read"),
            Err(LogError::Corrupt { message }) => {
                named += 1;
                assert!(message.contains(name), "byte {position} of {name}: {message}");
            }
            Err(error) => panic!("byte {position} of {name}: {error:?}"),
        }
    }
    assert!(named > 20, "{named}");
}

#[tokio::test]
async fn random_bytes_in_place_of_a_segment_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path()).await;
    let mut random = Random(3);
    for base in crate::topic_log::embedded::segment::list(dir.path()).unwrap() {
        let scratch = tempfile::tempdir().unwrap();
        copy(dir.path(), scratch.path());
        let path = crate::topic_log::embedded::segment::path(scratch.path(), base);
        let len = std::fs::metadata(&path).unwrap().len();
        std::fs::write(&path, random.bytes(len)).unwrap();
        let Err(error) = whole(scratch.path()).await else { panic!("{} was read", path.display()) };
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}
