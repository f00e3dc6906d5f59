//! One log event as one flat JSON object.
//!
//! Fields of the spans around an event stand beside its own, so that `connector` and `task` are at the top level
//! of every line said inside a task, whoever says it. An event's own field wins over a span's, an inner span's
//! over an outer's, and `timestamp`, `level` and `target` over all.

use std::fmt;

use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// The format; its span fields must be formatted by `JsonFields`.
pub(super) struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let fixed = [
            ("timestamp", timestamp.as_str()),
            ("level", event.metadata().level().as_str()),
            ("target", event.metadata().target()),
        ];
        // Twice: first for their place at the front of the line, at the end for their values.
        let mut line = Fields(Map::new());
        line.set_all(&fixed);
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let formatted = extensions.get::<FormattedFields<N>>().map_or("", |fields| fields.as_str());
            // A span without fields is formatted as nothing.
            line.0.extend(serde_json::from_str::<Map<String, Value>>(formatted).unwrap_or_default());
        }
        event.record(&mut line);
        line.set_all(&fixed);
        writeln!(writer, "{}", Value::Object(line.0))
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn set(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
    fn set_all(&mut self, fixed: &[(&str, &str)]) {
        self.0.extend(fixed.iter().map(|(name, text)| ((*name).to_owned(), Value::from(*text))));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }
}
