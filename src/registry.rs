//! The one table of connectors. Only this file names a concrete connector.
//!
//! Authors write the typed traits of `rowstream-api`; the blanket impls here erase them to boxed futures, so that no author meets
//! `dyn Any` or `Pin<Box>` and the worker meets no type parameter.

use std::{num::NonZeroUsize, sync::Arc};

use futures::future::{BoxFuture, FutureExt};
use rowstream_api::{
    ConfigErrors, ConfigSpec, ConnectorError, Delivery, FieldDoc, Flushed, RecordError, RecordId, Schema,
    SinkConnector, SinkRecord, SinkTask, SourceBatch, SourceConnector, SourceOffsets, SourceTask,
    TableSchema, TargetColumn, TaskContext, TopicOffsets, TopicPartition, TypeRow,
    snapshot::{Report, SnapshotRequest},
};
use rowstream_mysql::{
    connection::Flavour,
    sink::MySqlSink,
    source::{MariaDbSource, MySqlSource},
};
use rowstream_postgres::{sink::PostgresSink, source::PostgresSource};
use rowstream_webhook::WebhookSink;
use serde_json::{Map, Value};

use crate::{
    config::{ConnectorSpec, secrets, spec},
    pipeline::chain::ChainPlan,
};

/// Every connector this binary holds.
#[must_use]
pub fn plugins() -> Vec<Plugin> {
    vec![
        source::<PostgresSource>(),
        source::<MySqlSource>(),
        source::<MariaDbSource>(),
        sink::<PostgresSink>(),
        sink::<MySqlSink>(),
        sink::<WebhookSink>(),
    ]
}

/// The plugin of this name.
#[must_use]
pub fn plugin(name: &str) -> Option<Plugin> {
    plugins().into_iter().find(|p| p.name == name)
}

/// The types of a database that a source reads, for the manual.
pub struct SourceTypes {
    /// The database.
    pub server: &'static str,
    /// The page of the manual that shows them; databases may share one.
    pub page: &'static str,
    /// The source.
    pub connector: &'static str,
    /// The types.
    pub rows: Vec<TypeRow>,
    /// What the rows don't tell.
    pub unlisted: &'static str,
}

/// The types of every database that a source reads.
#[must_use]
pub fn source_types() -> Vec<SourceTypes> {
    let postgres = SourceTypes {
        server: "PostgreSQL",
        page: "types-postgres",
        connector: PostgresSource::NAME,
        rows: rowstream_postgres::types::manual::type_table(),
        unlisted: rowstream_postgres::types::manual::UNLISTED,
    };
    let of_mysql = |server, connector, flavour| SourceTypes {
        server,
        page: "types-mysql",
        connector,
        rows: rowstream_mysql::types::manual::type_table(flavour),
        unlisted: rowstream_mysql::types::manual::UNLISTED,
    };
    vec![
        postgres,
        of_mysql("MySQL", MySqlSource::NAME, Flavour::MySql),
        of_mysql("MariaDB", MariaDbSource::NAME, Flavour::MariaDb),
    ]
}

/// A sink that makes tables.
pub struct SinkTypes {
    /// The databases.
    pub server: &'static str,
    /// The sink.
    pub connector: &'static str,
    /// The column that it makes for a schema.
    pub column: fn(&Schema) -> TargetColumn,
}

/// Every sink that makes tables.
#[must_use]
pub fn sink_types() -> Vec<SinkTypes> {
    vec![
        SinkTypes {
            server: "PostgreSQL",
            connector: PostgresSink::NAME,
            column: rowstream_postgres::sink::target_column,
        },
        SinkTypes {
            server: "MySQL, MariaDB",
            connector: MySqlSink::NAME,
            column: rowstream_mysql::sink::target_column,
        },
    ]
}

/// Source or sink, in Connect's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginKind {
    /// Upstream to topics.
    Source,
    /// Topics to downstream.
    Sink,
}

impl PluginKind {
    /// Connect's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Sink => "sink",
        }
    }
}

/// One connector, erased.
#[derive(Clone, Copy)]
pub struct Plugin {
    /// Value of `connector:`.
    pub name: &'static str,
    /// Source or sink.
    pub kind: PluginKind,
    /// Its settings.
    pub fields: &'static [FieldDoc],
    plan: fn(Map<String, Value>) -> Result<Plan, ConfigErrors>,
}

/// A validated plan.
pub enum Plan {
    /// Of a source.
    Source(Box<dyn SourcePlan>),
    /// Of a sink.
    Sink(Box<dyn SinkPlan>),
}

impl Plan {
    /// The promise it can keep.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        match self {
            Self::Source(plan) => plan.delivery(),
            Self::Sink(plan) => plan.delivery(),
        }
    }
    /// Upstream resources that only one connector may use.
    #[must_use]
    pub fn exclusive(&self) -> Vec<String> {
        match self {
            Self::Source(plan) => plan.exclusive(),
            Self::Sink(_) => Vec::new(),
        }
    }
    /// Looks at the live system.
    ///
    /// # Errors
    /// Every problem found there, with the remedy.
    pub async fn preflight(&self) -> Result<(), ConnectorError> {
        match self {
            Self::Source(plan) => plan.preflight().await,
            Self::Sink(plan) => plan.preflight().await,
        }
    }
}

/// A source's plan, erased.
pub trait SourcePlan: Send + Sync {
    /// See [`SourceConnector::delivery`].
    fn delivery(&self) -> Delivery;
    /// See [`SourceConnector::exclusive`].
    fn exclusive(&self) -> Vec<String>;
    /// See [`SourceConnector::preflight`].
    fn preflight(&self) -> BoxFuture<'_, Result<(), ConnectorError>>;
    /// See [`SourceConnector::tables`].
    fn tables(&self) -> BoxFuture<'_, Result<Vec<Arc<TableSchema>>, ConnectorError>>;
    /// See [`SourceConnector::split`].
    fn split(&self, tasks_max: NonZeroUsize) -> Vec<Box<dyn SourcePlan>>;
    /// See [`SourceConnector::snapshot`].
    ///
    /// # Errors
    /// The offsets are not of this source.
    fn snapshot(&self, offsets: &SourceOffsets) -> Result<Option<Report>, ConnectorError>;
    /// See [`SourceConnector::start`].
    fn start(
        &self,
        resume: SourceOffsets,
        cx: TaskContext,
    ) -> BoxFuture<'_, Result<Box<dyn AnySourceTask>, ConnectorError>>;
}

/// A sink's plan, erased.
pub trait SinkPlan: Send + Sync {
    /// See [`SinkConnector::delivery`].
    fn delivery(&self) -> Delivery;
    /// See [`SinkConnector::preflight`].
    fn preflight(&self) -> BoxFuture<'_, Result<(), ConnectorError>>;
    /// See [`SinkConnector::start`].
    fn start(&self, cx: TaskContext) -> BoxFuture<'_, Result<Box<dyn AnySinkTask>, ConnectorError>>;
}

/// [`SourceTask`], erased; the same contracts.
pub trait AnySourceTask: Send {
    /// See [`SourceTask::poll`].
    fn poll(&mut self) -> BoxFuture<'_, Result<SourceBatch, ConnectorError>>;
    /// See [`SourceTask::committed`].
    fn committed<'a>(&'a mut self, offsets: &'a SourceOffsets) -> BoxFuture<'a, Result<(), ConnectorError>>;
    /// See [`SourceTask::snapshot`].
    fn snapshot<'a>(&'a mut self, request: &'a SnapshotRequest) -> BoxFuture<'a, Result<(), ConnectorError>>;
    /// See [`SourceTask::close`].
    fn close(&mut self) -> BoxFuture<'_, Result<(), ConnectorError>>;
}

/// [`SinkTask`], erased; the same contracts.
pub trait AnySinkTask: Send {
    /// See [`SinkTask::keeps_offsets`].
    fn keeps_offsets(&self) -> bool;
    /// See [`SinkTask::open`].
    fn open<'a>(
        &'a mut self,
        gained: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<TopicOffsets, ConnectorError>>;
    /// See [`SinkTask::put`].
    fn put(
        &mut self,
        records: Vec<SinkRecord>,
    ) -> BoxFuture<'_, Result<Vec<(RecordId, RecordError)>, ConnectorError>>;
    /// See [`SinkTask::flush`].
    fn flush(&mut self) -> BoxFuture<'_, Result<Flushed, ConnectorError>>;
    /// See [`SinkTask::pending_bytes`].
    fn pending_bytes(&self) -> usize;
    /// See [`SinkTask::is_full`].
    fn is_full(&self) -> bool;
    /// See [`SinkTask::progress`].
    fn progress(&mut self) -> BoxFuture<'_, ()>;
    /// See [`SinkTask::close`].
    fn close(&mut self) -> BoxFuture<'_, Result<Flushed, ConnectorError>>;
}

/// Validates a connector document: frame, secrets, fields, and what they mean together. No I/O but secret files.
///
/// # Errors
/// Every problem at once.
pub fn plan(connector: &ConnectorSpec) -> Result<(Plugin, Plan), ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let Some(plugin) = plugin(&connector.connector) else {
        let known: Vec<String> = plugins().iter().map(|p| format!("`{}`", p.name)).collect();
        let message =
            format!("`{}` is not a connector; expected one of {}", connector.connector, known.join(", "));
        errors.push("connector", message);
        return Err(errors);
    };
    match (plugin.kind, connector.topics.is_empty()) {
        (PluginKind::Sink, true) => {
            errors.push("topics", "a sink needs the topics it reads, e.g. `[\"shop.public.*\"]`")
        }
        (PluginKind::Source, false) => {
            errors.push("topics", "has no effect on a source; its topics follow from its tables")
        }
        (PluginKind::Sink, false) | (PluginKind::Source, true) => {}
    }
    if plugin.kind == PluginKind::Source && connector.start_at.is_some() {
        errors.push("start_at", "has no effect on a source; what it reads first is `config.snapshot.mode`");
    }
    let resolved = secrets::resolve(&connector.config, &secrets::process_environment, &mut errors);
    let typed = spec::check(&resolved, plugin.fields, "config.", &mut errors);
    if let Err(steps) = ChainPlan::of(connector) {
        errors.0.extend(steps.0);
    }
    errors.into_result()?;
    let plan = (plugin.plan)(typed).map_err(|mut errors| {
        for error in errors.0.iter_mut().filter(|e| !e.field.is_empty()) {
            error.field = format!("config.{}", error.field);
        }
        errors
    })?;
    Ok((plugin, plan))
}

fn config_of<C: ConfigSpec>(typed: Map<String, Value>) -> Result<C, ConfigErrors> {
    serde_json::from_value(Value::Object(typed)).map_err(|e| {
        let mut errors = ConfigErrors::default();
        errors.push("", e.to_string());
        errors
    })
}

fn source<S: SourceConnector>() -> Plugin {
    Plugin {
        name: S::NAME,
        kind: PluginKind::Source,
        fields: S::Config::FIELDS,
        plan: |typed| Ok(Plan::Source(Box::new(ErasedSource::<S>(S::validate(config_of(typed)?)?)))),
    }
}

fn sink<S: SinkConnector>() -> Plugin {
    Plugin {
        name: S::NAME,
        kind: PluginKind::Sink,
        fields: S::Config::FIELDS,
        plan: |typed| Ok(Plan::Sink(Box::new(ErasedSink::<S>(S::validate(config_of(typed)?)?)))),
    }
}

struct ErasedSource<S: SourceConnector>(S::Plan);

impl<S: SourceConnector> SourcePlan for ErasedSource<S> {
    fn delivery(&self) -> Delivery {
        S::delivery(&self.0)
    }
    fn exclusive(&self) -> Vec<String> {
        S::exclusive(&self.0)
    }
    fn preflight(&self) -> BoxFuture<'_, Result<(), ConnectorError>> {
        S::preflight(&self.0).boxed()
    }
    fn tables(&self) -> BoxFuture<'_, Result<Vec<Arc<TableSchema>>, ConnectorError>> {
        S::tables(&self.0).boxed()
    }
    fn split(&self, tasks_max: NonZeroUsize) -> Vec<Box<dyn SourcePlan>> {
        S::split(&self.0, tasks_max).into_iter().map(|p| Box::new(Self(p)) as Box<dyn SourcePlan>).collect()
    }
    fn snapshot(&self, offsets: &SourceOffsets) -> Result<Option<Report>, ConnectorError> {
        S::snapshot(&self.0, offsets)
    }
    fn start(
        &self,
        resume: SourceOffsets,
        cx: TaskContext,
    ) -> BoxFuture<'_, Result<Box<dyn AnySourceTask>, ConnectorError>> {
        let start = S::start(self.0.clone(), resume, cx);
        async move { Ok(Box::new(start.await?) as Box<dyn AnySourceTask>) }.boxed()
    }
}

struct ErasedSink<S: SinkConnector>(S::Plan);

impl<S: SinkConnector> SinkPlan for ErasedSink<S> {
    fn delivery(&self) -> Delivery {
        S::delivery(&self.0)
    }
    fn preflight(&self) -> BoxFuture<'_, Result<(), ConnectorError>> {
        S::preflight(&self.0).boxed()
    }
    fn start(&self, cx: TaskContext) -> BoxFuture<'_, Result<Box<dyn AnySinkTask>, ConnectorError>> {
        let start = S::start(self.0.clone(), cx);
        async move { Ok(Box::new(start.await?) as Box<dyn AnySinkTask>) }.boxed()
    }
}

impl<T: SourceTask> AnySourceTask for T {
    fn poll(&mut self) -> BoxFuture<'_, Result<SourceBatch, ConnectorError>> {
        SourceTask::poll(self).boxed()
    }
    fn committed<'a>(&'a mut self, offsets: &'a SourceOffsets) -> BoxFuture<'a, Result<(), ConnectorError>> {
        SourceTask::committed(self, offsets).boxed()
    }
    fn snapshot<'a>(&'a mut self, request: &'a SnapshotRequest) -> BoxFuture<'a, Result<(), ConnectorError>> {
        SourceTask::snapshot(self, request).boxed()
    }
    fn close(&mut self) -> BoxFuture<'_, Result<(), ConnectorError>> {
        SourceTask::close(self).boxed()
    }
}

impl<T: SinkTask> AnySinkTask for T {
    fn keeps_offsets(&self) -> bool {
        SinkTask::keeps_offsets(self)
    }
    fn open<'a>(
        &'a mut self,
        gained: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<TopicOffsets, ConnectorError>> {
        SinkTask::open(self, gained).boxed()
    }
    fn put(
        &mut self,
        records: Vec<SinkRecord>,
    ) -> BoxFuture<'_, Result<Vec<(RecordId, RecordError)>, ConnectorError>> {
        SinkTask::put(self, records).boxed()
    }
    fn flush(&mut self) -> BoxFuture<'_, Result<Flushed, ConnectorError>> {
        SinkTask::flush(self).boxed()
    }
    fn pending_bytes(&self) -> usize {
        SinkTask::pending_bytes(self)
    }
    fn is_full(&self) -> bool {
        SinkTask::is_full(self)
    }
    fn progress(&mut self) -> BoxFuture<'_, ()> {
        SinkTask::progress(self).boxed()
    }
    fn close(&mut self) -> BoxFuture<'_, Result<Flushed, ConnectorError>> {
        SinkTask::close(self).boxed()
    }
}

#[cfg(test)]
mod tests {
    use rowstream_testkit::{fields_are_sound, missing_fields_are_refused};

    use super::*;
    use crate::config::{connector::FRAME_FIELDS, worker::WORKER_FIELDS};

    #[test]
    fn every_connector_passes_the_batteries() {
        fields_are_sound("worker.yaml", WORKER_FIELDS);
        fields_are_sound("connector frame", FRAME_FIELDS);
        for plugin in plugins() {
            fields_are_sound(plugin.name, plugin.fields);
            missing_fields_are_refused(plugin.name, plugin.fields, |config| {
                let mut document = Map::new();
                document.insert("name".to_owned(), Value::from("n"));
                document.insert("connector".to_owned(), Value::from(plugin.name));
                if plugin.kind == PluginKind::Sink {
                    document.insert("topics".to_owned(), Value::from(vec!["t"]));
                }
                document.insert("config".to_owned(), Value::Object(config));
                let planned = ConnectorSpec::from_document(document).and_then(|spec| plan(&spec).map(drop));
                planned.err().map(|e| e.to_string()).unwrap_or_default()
            });
        }
    }
}
