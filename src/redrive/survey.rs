//! What a dead letter topic holds of each connector, counted by the reason.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rowstream_api::ConnectorError;
use tokio::time::Instant;

use super::{
    Memory, Scan,
    letter::{Place, Reason},
};
use crate::{task::log_failure, topic_log::TopicLog};

/// Counting ends here, and says that it did not see all.
const COUNT_WITHIN: Duration = Duration::from_secs(20);

/// Letters of one connector.
#[derive(Debug, Default)]
pub struct Counts {
    /// All.
    pub letters: u64,
    /// Those that were redriven.
    pub redriven: u64,
    /// When the newest was written into its own topic, milliseconds since the epoch.
    pub newest_ms: Option<i64>,
    /// By error code and stage.
    pub reasons: BTreeMap<(String, String), u64>,
    /// The topic was read to its end.
    pub complete: bool,
}

/// Counts the letters of a connector.
///
/// # Errors
/// The log can't be read.
pub async fn count(log: &Arc<dyn TopicLog>, connector: &str, topic: &str) -> Result<Counts, ConnectorError> {
    let mut counts = Counts { complete: true, ..Counts::default() };
    let Some(mut scan) = Scan::of(log, topic, None).await? else { return Ok(counts) };
    let memory = Memory::load(log, connector, topic, scan.topic_id()).await?;
    let until = Instant::now() + COUNT_WITHIN;
    while let Some(batch) = scan.next().await? {
        let partition = batch.partition.partition;
        let mut views = batch.records.views().map_err(|e| log_failure("read the dead letters", e))?;
        for offset in batch.base_offset..scan.end_of(partition) {
            let Some(view) = views.next().map_err(|e| log_failure("read the dead letters", e))? else {
                break;
            };
            let Some(reason) = Reason::of(view.headers.iter().copied()).filter(|r| r.connector == connector)
            else {
                continue;
            };
            counts.letters += 1;
            counts.redriven += u64::from(memory.holds(Place { partition, offset }));
            counts.newest_ms = counts.newest_ms.max(Some(view.timestamp_ms));
            *counts.reasons.entry((reason.code, reason.stage)).or_default() += 1;
        }
        if Instant::now() >= until {
            counts.complete = false;
            break;
        }
    }
    Ok(counts)
}
