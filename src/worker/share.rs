//! Which tasks are a worker's own.
//!
//! A task's shard follows from its connector's name and its number alone, so every worker computes the same one without asking, and a
//! task moves only when its shard does. Task 0 has the shard of the name's hash: it is the connector's *home*, whose owner tells the
//! connector's own state. The others follow in steps of about 0.618 of the shards (the golden section), a number that shares no
//! factor with them: no two of a connector's tasks meet before every shard has one, and any few of them lie spread over the circle,
//! whether the group gives its workers runs of shards or every n-th one.

use std::{collections::BTreeSet, sync::Arc};

use crate::pipeline::partition::partition_of;

/// The tasks that one worker runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Share {
    /// It shares with nobody.
    All,
    /// It is one of a group.
    Shards {
        /// Shards in all; zero until the group was joined.
        count: u32,
        /// Its own.
        owned: Arc<BTreeSet<u32>>,
    },
}

impl Share {
    /// Whether it runs this task.
    #[must_use]
    pub fn has(&self, connector: &str, task: usize) -> bool {
        match self {
            Self::All => true,
            Self::Shards { count: 0, .. } => false,
            Self::Shards { count, owned } => owned.contains(&shard_of(connector, task, *count)),
        }
    }
}

fn shard_of(connector: &str, task: usize, shards: u32) -> u32 {
    let home = u64::from(partition_of(Some(connector.as_bytes()), shards));
    let task = task as u64 % u64::from(shards);
    let shard = (home + task * u64::from(step(shards))) % u64::from(shards);
    u32::try_from(shard).unwrap_or_default()
}

/// The largest number up to the golden section of `shards` that shares no factor with it.
fn step(shards: u32) -> u32 {
    let golden = u32::try_from(u64::from(shards) * 618 / 1000).unwrap_or_default();
    (1..=golden).rev().find(|step| factor(*step, shards) == 1).unwrap_or(1)
}

/// The greatest common divisor.
fn factor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { factor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARDS: u32 = 64;

    fn names() -> impl Iterator<Item = String> {
        (0..200).map(|n| format!("warehouse-{n}"))
    }

    /// Shards in runs, as after one worker joined after the other, and every n-th one, as when all join at once.
    fn partings(workers: u32) -> [Vec<Share>; 2] {
        let part = |own: &dyn Fn(u32, u32) -> bool| -> Vec<Share> {
            let owned = |w| Arc::new((0..SHARDS).filter(|shard| own(*shard, w)).collect());
            (0..workers).map(|w| Share::Shards { count: SHARDS, owned: owned(w) }).collect()
        };
        [part(&|shard, w| shard * workers / SHARDS == w), part(&|shard, w| shard % workers == w)]
    }

    #[test]
    fn each_task_is_one_workers_own() {
        for (workers, connector) in [2, 3, 5].into_iter().flat_map(|w| names().map(move |n| (w, n))) {
            for shares in partings(workers) {
                for task in 0..100 {
                    let owners = shares.iter().filter(|share| share.has(&connector, task)).count();
                    assert_eq!(owners, 1, "{connector}-{task} of {workers} workers");
                }
            }
        }
    }

    #[test]
    fn the_tasks_of_a_connector_are_spread() {
        for (workers, tasks) in [(2, 4), (3, 6), (4, 12), (5, 64)] {
            for (connector, shares) in names().flat_map(|n| partings(workers).map(|s| (n.clone(), s))) {
                let runs = |share: &Share| (0..tasks).filter(|task| share.has(&connector, *task)).count();
                let counts: Vec<usize> = shares.iter().map(runs).collect();
                let fair = tasks.div_ceil(shares.len());
                assert!(
                    counts.iter().all(|n| (1..=2 * fair).contains(n)),
                    "{tasks} of {connector}: {counts:?}"
                );
            }
        }
    }

    #[test]
    fn no_two_tasks_share_a_shard_before_all_have_one() {
        for shards in [1, 2, 3, 12, 64, 100] {
            let used: BTreeSet<u32> =
                (0..shards as usize).map(|task| shard_of("shop", task, shards)).collect();
            assert_eq!(used.len(), shards as usize);
        }
    }

    #[test]
    fn who_has_not_joined_runs_nothing() {
        let share = Share::Shards { count: 0, owned: Arc::default() };
        assert!(!share.has("shop", 0));
        assert!(Share::All.has("shop", 7));
    }
}
