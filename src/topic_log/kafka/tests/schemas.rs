//! The registry's topic: several registries, one writer at a time, ids that never clash.

use futures::future::join_all;

use super::*;
use crate::schema_registry::{BuiltinRegistry, SchemaRegistry};

async fn registry(log: &KafkaLog, topic: &str) -> Arc<BuiltinRegistry> {
    BuiltinRegistry::open_topic(log.schemas_topic(topic).await.unwrap()).await.unwrap()
}

fn schema(n: u32) -> String {
    format!(r#"{{"type":"record","name":"R{n}","fields":[{{"name":"a","type":"int"}}]}}"#)
}

/// Two workers register at once: each schema has one id, each id one schema, and each worker reads what the other wrote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_registries_share_a_topic() {
    let (config, topic) = (config(), unique("schemas"));
    let (log, other) = (open(&config).await, open(&config).await);
    let (a, b) = (registry(&log, &topic).await, registry(&other, &topic).await);
    let both = (0..6).flat_map(|n| [(&a, n), (&b, n), (&b, n + 3)]);
    let ids = join_all(both.map(|(registry, n)| async move {
        (n, registry.register(&format!("s{n}-value"), &schema(n)).await.unwrap())
    }))
    .await;
    let by_schema: std::collections::BTreeMap<u32, u32> = ids.iter().copied().collect();
    assert!(ids.iter().all(|(n, id)| by_schema[n] == *id), "one schema has two ids: {ids:?}");
    let mut distinct: Vec<u32> = by_schema.values().copied().collect();
    distinct.sort_unstable();
    assert_eq!(distinct, (1..=9).collect::<Vec<u32>>());
    for (n, id) in by_schema {
        assert_eq!(*a.schema(id).await.unwrap(), *schema(n));
        assert_eq!(*b.schema(id).await.unwrap(), *schema(n));
    }
    let again = registry(&log, &topic).await;
    assert_eq!(again.subjects("", crate::schema_registry::builtin::Deleted::Hidden).len(), 9);
    let first = stored(broker(), &topic).remove(0);
    assert!(first.1.unwrap().starts_with(r#"{"keytype":"SCHEMA","subject":"s"#));
}
