//! Notices partitions that are not read although there is something to read.
//!
//! librdkafka's consumer has stood still for good after brokers were killed, without an error (seen once in a few hundred kills; the broker
//! answered all other questions). Nobody would notice but by what does not arrive. So whoever reads compares where it stands with the
//! committed end now and then, and reads on from there anew when a partition has stood still before its end for too long.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rowstream_api::TopicPartition;

/// How long a partition may stand before its end: longer than a broker takes to change places, shorter than anybody's patience.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where partitions have stood, and since when.
#[derive(Default)]
pub(super) struct Stalls(BTreeMap<TopicPartition, (i64, Instant)>);

impl Stalls {
    /// Takes where each partition stands and where its committed records end; answers those that have stood still for too long, and
    /// gives them as much time again.
    pub(super) fn look(
        &mut self,
        partitions: impl IntoIterator<Item = (TopicPartition, i64, i64)>,
        now: Instant,
    ) -> Vec<(TopicPartition, i64)> {
        let mut stalled = Vec::new();
        for (partition, stands, end) in partitions {
            if stands >= end {
                self.0.remove(&partition);
                continue;
            }
            let (place, since) = self.0.entry(partition.clone()).or_insert((stands, now));
            if *place != stands {
                (*place, *since) = (stands, now);
            } else if now.duration_since(*since) >= PATIENCE {
                *since = now;
                stalled.push((partition, stands));
            }
        }
        stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_still_before_its_end_is_stalled() {
        let (mut stalls, start) = (Stalls::default(), Instant::now());
        let mut look = |seconds: u64, places: [(i64, i64); 3]| {
            let partitions = (0..).zip(places).map(|(n, (at, end))| (TopicPartition::new("t", n), at, end));
            let stalled = stalls.look(partitions, start + Duration::from_secs(seconds));
            stalled.into_iter().map(|(p, at)| (p.partition, at)).collect::<Vec<_>>()
        };
        // The first has nothing to read, the second moves, the third stands.
        assert_eq!(look(0, [(5, 5), (1, 9), (3, 9)]), []);
        assert_eq!(look(9, [(5, 5), (2, 9), (3, 9)]), []);
        assert_eq!(look(10, [(5, 6), (3, 9), (3, 12)]), [(2, 3)]);
        assert_eq!(look(19, [(5, 6), (4, 9), (3, 12)]), [], "it has as much time again");
        assert_eq!(look(20, [(5, 6), (4, 9), (3, 12)]), [(0, 5), (2, 3)]);
        assert_eq!(look(29, [(6, 6), (9, 9), (4, 12)]), []);
    }
}
