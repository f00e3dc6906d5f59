//! A look at Kafka before anything runs: do the brokers let us in, and may we do there what the log needs?
//!
//! Nothing is changed: topics are only asked whether they could be made, and the one transactional id that is opened is no worker's.
//! The right to write can't be asked for without writing.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

use super::{
    cluster::{Asked, Cluster, Made, blocking, briefly},
    config::{Isolation, KafkaConfig},
    context::Context,
    errors::log_error,
    transaction::{Opening, Ownership, Transactions},
};
use crate::topic_log::LogError;

/// How long the brokers may take to let us in; nobody waits for them to be started here.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long one question may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that would keep a worker with these settings from working; [`LogError::Refused`] is for a person to mend.
pub async fn probe(config: KafkaConfig) -> Vec<LogError> {
    let cluster = match blocking(move || Cluster::connect(config, PATIENCE)).await {
        Ok(cluster) => cluster,
        Err(error) => return vec![error],
    };
    let mut problems = Vec::new();
    for topic in [cluster.offsets_topic(), cluster.sink_offsets_topic(), cluster.state_topic()] {
        problems.extend(
            cluster.make_topic(&topic, Made::Compacted { partitions: 1 }, Asked::Whether).await.err(),
        );
    }
    let opening = Opening {
        id: format!("{}.validate", cluster.config.group),
        timeout: None,
        owner: Box::new(|| Ownership::Ours),
    };
    problems.extend(Transactions::open(&cluster, opening).await.err());
    let asked = Arc::clone(&cluster);
    problems.extend(blocking(move || asked.patiently(|| may_join(&asked))).await.err());
    cluster.close();
    problems
}

fn may_join(cluster: &Cluster) -> Result<(), LogError> {
    let group = format!("{}-workers", cluster.config.group);
    let attempt = || format!("ask for the consumer group `{group}`");
    let config = cluster.config.consumer(&group, Isolation::Committed);
    let consumer: BaseConsumer<Context> =
        config.create_with_context(cluster.context(&group)).map_err(|e| log_error(attempt(), &e))?;
    // Serves the wish for a token.
    drop(consumer.poll(Duration::ZERO));
    let mut any = TopicPartitionList::new();
    any.add_partition(&cluster.shards_topic(), 0);
    let Err(silence) = consumer.committed_offsets(any, ANSWER_TIMEOUT) else { return Ok(()) };
    // What a coordinator says of our rights comes as an event, and the question itself has no answer.
    while let Some(polled) = consumer.poll(briefly(100)) {
        polled.map_err(|e| log_error(attempt(), &e))?;
    }
    Err(log_error(attempt(), &silence))
}
