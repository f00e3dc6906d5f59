//! Ids: durable, one per schema, whatever happens between.

use futures::future::join_all;

use super::double::{Fault, MemoryLog};
use crate::schema_registry::{
    BuiltinRegistry, Conflict, Level, Refusal, RegistryError, SchemaRegistry,
    builtin::{Deleted, Deletion, VersionChoice},
};

const INT: &str = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#;
const LONG: &str = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"long"}]}"#;

#[tokio::test]
async fn ids_start_at_one_and_follow_the_schema_not_the_subject() {
    let log = MemoryLog::new();
    let registry = BuiltinRegistry::open(log.clone()).await.unwrap();
    assert_eq!(registry.register("a-value", INT).await.unwrap(), 1);
    assert_eq!(registry.register("a-value", LONG).await.unwrap(), 2);
    let reordered = r#"{ "name":"R", "fields":[{"type":"int","name":"a"}], "type":"record" }"#;
    assert_eq!(registry.register("b-value", reordered).await.unwrap(), 1);
    assert_eq!(registry.register("a-value", LONG).await.unwrap(), 2);
    assert_eq!(log.writes(), 3, "registering again writes nothing");
    assert_eq!(registry.schema(1).await.unwrap().as_ref(), INT);
    assert!(matches!(registry.schema(3).await, Err(RegistryError::NotFound(_))));
    assert_eq!(registry.uses(1, Deleted::Hidden).unwrap(), [("a-value".into(), 1), ("b-value".into(), 1)]);
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let log = MemoryLog::new();
    let registry = BuiltinRegistry::open(log.clone()).await.unwrap();
    registry.register("s/with/slashes-value", INT).await.unwrap();
    registry.register("s/with/slashes-value", LONG).await.unwrap();
    registry.register("gone-value", LONG).await.unwrap();
    registry.set_level(None, Level::Full).await.unwrap();
    registry.set_level(Some("x/y"), Level::None).await.unwrap();
    registry.delete_version("s/with/slashes-value", VersionChoice::Exactly(1), Deletion::Soft).await.unwrap();
    registry.delete_subject("gone-value", Deletion::Soft).await.unwrap();
    registry.delete_subject("gone-value", Deletion::Permanent).await.unwrap();

    let again = BuiltinRegistry::open(log).await.unwrap();
    assert_eq!(again.versions("s/with/slashes-value", Deleted::Hidden).unwrap(), [2]);
    assert_eq!(again.versions("s/with/slashes-value", Deleted::Included).unwrap(), [1, 2]);
    assert_eq!(again.subjects("", Deleted::Included), ["s/with/slashes-value"]);
    assert_eq!(again.level(None).unwrap(), Level::Full);
    assert_eq!(again.level(Some("x/y")).unwrap(), Level::None);
    assert_eq!(again.schema(1).await.unwrap().as_ref(), INT);
    assert_eq!(again.register("x/y", LONG).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_registering_at_once_get_one_id_per_schema() {
    let log = MemoryLog::new();
    let registry = BuiltinRegistry::open(log.clone()).await.unwrap();
    let ids = join_all((0..64).map(|_| registry.register("same", INT))).await;
    assert!(ids.iter().all(|id| matches!(id, Ok(1))), "{ids:?}");
    assert_eq!(log.writes(), 1);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..64u32 {
        let registry = registry.clone();
        tasks.spawn(async move {
            let schema = if n % 2 == 0 { INT } else { LONG };
            (n % 2, registry.register(&format!("subject-{n}"), schema).await.unwrap())
        });
    }
    let ids = tasks.join_all().await;
    assert_eq!(ids.len(), 64);
    assert!(ids.iter().all(|(parity, id)| *id == parity + 1), "{ids:?}");
}

#[tokio::test]
async fn a_rejected_write_leaves_no_trace() {
    let log = MemoryLog::new();
    let registry = BuiltinRegistry::open(log.clone()).await.unwrap();
    log.arm(Fault::Reject);
    assert!(matches!(registry.register("s", INT).await, Err(RegistryError::Unavailable { .. })));
    assert!(registry.subjects("", Deleted::Included).is_empty());
    assert_eq!(registry.register("t", LONG).await.unwrap(), 1);
}

#[tokio::test]
async fn a_write_that_happened_in_spite_of_its_error_keeps_its_id() {
    let log = MemoryLog::new();
    let registry = BuiltinRegistry::open(log.clone()).await.unwrap();
    log.arm(Fault::FailAfterWrite);
    assert!(matches!(registry.register("s", INT).await, Err(RegistryError::Unavailable { .. })));
    assert_eq!(registry.register("t", LONG).await.unwrap(), 2, "1 is taken on disk");
    assert_eq!(registry.register("s", INT).await.unwrap(), 1);
    let again = BuiltinRegistry::open(log).await.unwrap();
    assert_eq!(again.schema(1).await.unwrap().as_ref(), INT);
    assert_eq!(again.schema(2).await.unwrap().as_ref(), LONG);
}

#[tokio::test]
async fn a_registration_dropped_midway_is_read_again() {
    let log = MemoryLog::new();
    let registry = BuiltinRegistry::open(log.clone()).await.unwrap();
    let mut registering = registry.register("s", INT);
    assert!(futures::poll!(&mut registering).is_pending(), "stands in its write");
    drop(registering);
    assert_eq!(registry.register("t", LONG).await.unwrap(), 1, "the write had not begun");
}

#[tokio::test]
async fn damaged_state_is_refused_and_named() {
    for (table, key) in
        [("schemas", "0000000001"), ("subjects", "s/0000000001"), ("registry_config", "global")]
    {
        let log = MemoryLog::new();
        BuiltinRegistry::open(log.clone()).await.unwrap().register("s", INT).await.unwrap();
        log.damage(table, key);
        let error = BuiltinRegistry::open(log).await.err().unwrap().to_string();
        assert!(error.contains(table) && error.contains(key), "{error}");
    }
}

#[tokio::test]
async fn refusals_reach_the_converter_as_its_errors() {
    let registry = BuiltinRegistry::open(MemoryLog::new()).await.unwrap();
    assert!(matches!(registry.register("s", "{").await, Err(RegistryError::Invalid(_))));
    assert!(matches!(registry.register("s", r#"{"type":"record"}"#).await, Err(RegistryError::Invalid(_))));
    let misnamed = r#"{"type":"record","name":"R","fields":[],"aliases":["9 lives"]}"#;
    let error = registry.register("s", misnamed).await.unwrap_err().to_string();
    assert!(error.contains("`9 lives` is not a name"), "{error}");
    assert!(matches!(registry.register_version("a\nb", INT).await, Err(Refusal::InvalidSubject(_))));
    registry.register("s", LONG).await.unwrap();
    let error = registry.register("s", INT).await.unwrap_err();
    let RegistryError::Incompatible(conflict) = error else { panic!("{error}") };
    let Conflict { subject, version: Some(1), reason, .. } = *conflict else { panic!("{conflict}") };
    assert_eq!(subject, "s");
    assert!(reason.starts_with("field `a`: type changed from long to int"), "{reason}");
}
