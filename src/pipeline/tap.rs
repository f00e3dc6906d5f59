//! Live records before and after each transform, for whoever looks.
//!
//! Looking never slows a task down nor makes it wait: while nobody looks a record costs one atomic load; while somebody does, at most one
//! record each [`PACE`] is shown, and what a looker does not take in time he does not see. A record is shown as it goes through, so that what
//! is seen is what is done.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rowstream_api::{RecordError, json::write_json};
use rowstream_transforms::{Chain, Part, Record};
use serde_json::{Map, Value, json};
use tokio::{sync::broadcast, time::Instant};

/// The least time between two records that are shown: people read no faster.
const PACE: Duration = Duration::from_millis(100);
/// Records that wait for a looker.
const WAITING_MAX: usize = 32;

/// The taps of the connectors that run here, by name.
#[derive(Clone, Default)]
pub struct Taps(Arc<Mutex<HashMap<String, Tap>>>);

impl Taps {
    /// A connector's, made at its first start.
    #[must_use]
    pub fn of(&self, connector: &str) -> Tap {
        let mut taps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taps.entry(connector.to_owned()).or_default().clone()
    }

    /// A connector's, if any of its tasks ever ran here.
    #[must_use]
    pub fn known(&self, connector: &str) -> Option<Tap> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(connector).cloned()
    }
}

/// What the tasks of one connector show.
#[derive(Clone)]
pub struct Tap(Arc<Inner>);

struct Inner {
    lookers: AtomicUsize,
    next: Mutex<Option<Instant>>,
    sender: broadcast::Sender<Arc<Look>>,
}

impl Default for Tap {
    fn default() -> Self {
        let (sender, _) = broadcast::channel(WAITING_MAX);
        Self(Arc::new(Inner { lookers: AtomicUsize::new(0), next: Mutex::new(None), sender }))
    }
}

/// One record on its way.
#[derive(Debug, Clone)]
pub struct Look {
    /// As it came, then behind each step.
    pub stages: Vec<Stage>,
    /// Why a step could not handle it.
    pub error: Option<String>,
}

/// What there is of a record at one place.
#[derive(Debug, Clone)]
pub struct Stage {
    /// The step that is just behind; none where it came in.
    pub step: Option<String>,
    /// Nothing when it was dropped.
    pub records: Vec<Value>,
}

impl Tap {
    /// Looks, until the answer is dropped.
    #[must_use]
    pub fn look(&self) -> Looker {
        let receiver = self.0.sender.subscribe();
        self.0.lookers.fetch_add(1, Ordering::Relaxed);
        Looker { tap: self.clone(), receiver }
    }

    /// Applies a chain, and shows the record when somebody looks and it is time for one.
    ///
    /// # Errors
    /// The chain's.
    pub fn apply<'a>(&self, chain: &mut Chain, record: Record<'a>) -> Result<Vec<Record<'a>>, RecordError> {
        if !self.is_due() {
            return chain.apply(record);
        }
        let mut stages = vec![Stage { step: None, records: vec![record_json(&record)] }];
        let made = chain.apply_watched(record, &mut |step, records| {
            let records = records.iter().map(record_json).collect();
            stages.push(Stage { step: Some(step.to_owned()), records });
        });
        let error = made.as_ref().err().map(|error| format!("{}: {}", error.code, error.message));
        // Nobody may be left to see it.
        let _seen = self.0.sender.send(Arc::new(Look { stages, error }));
        made
    }

    fn is_due(&self) -> bool {
        if self.0.lookers.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut next = self.0.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if next.is_some_and(|next| now < next) {
            return false;
        }
        *next = Some(now + PACE);
        true
    }
}

/// Somebody who looks.
pub struct Looker {
    tap: Tap,
    receiver: broadcast::Receiver<Arc<Look>>,
}

impl Looker {
    /// The next record that is shown. Cancel-safe.
    pub async fn next(&mut self) -> Option<Arc<Look>> {
        loop {
            match self.receiver.recv().await {
                Ok(look) => return Some(look),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        self.tap.0.lookers.fetch_sub(1, Ordering::Relaxed);
    }
}

fn record_json(record: &Record<'_>) -> Value {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers: Map<String, Value> =
        record.headers.iter().map(|(name, value)| (name.to_string(), json!(text(value)))).collect();
    json!({
        "topic": &*record.topic, "partition": record.partition, "timestamp": record.timestamp_ms,
        "headers": headers, "key": part_json(&record.key), "value": part_json(&record.value),
    })
}

fn part_json(part: &Part<'_>) -> Value {
    let mut part = part.clone();
    let written = part.tree().and_then(|tree| {
        let Some((schema, value)) = tree else { return Ok(Value::Null) };
        let mut out = Vec::new();
        write_json(schema, value, &mut out)?;
        Ok(serde_json::from_slice(&out).unwrap_or_default())
    });
    written.unwrap_or_else(|error| json!(format!("(unreadable: {})", error.code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(topic: &str) -> Record<'static> {
        Record {
            topic: topic.into(),
            partition: None,
            timestamp_ms: 0,
            key: Part::Null,
            value: Part::Null,
            headers: Vec::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_looks_sees_and_no_more_than_he_can_read() {
        let (tap, mut chain) = (Tap::default(), Chain::default());
        assert_eq!(tap.apply(&mut chain, record("before")).unwrap().len(), 1);
        let mut looker = tap.look();
        for topic in ["first", "too soon"] {
            tap.apply(&mut chain, record(topic)).unwrap();
        }
        tokio::time::advance(PACE).await;
        tap.apply(&mut chain, record("second")).unwrap();
        for topic in ["first", "second"] {
            let look = looker.next().await.unwrap();
            assert_eq!(look.stages[0].records[0]["topic"], topic);
        }
        drop(looker);
        assert!(!tap.is_due());
    }
}
