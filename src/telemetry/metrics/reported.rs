//! Families whose names others choose (the topic log, connectors) or that are read when asked (the process).

use std::{collections::BTreeMap, sync::Arc};

use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};

use super::Series;
use crate::{
    telemetry::{
        names::{self, Name},
        process::Usage,
    },
    topic_log::LogHealth,
};

pub(super) fn log_families(log: &LogHealth) -> Vec<MetricFamily> {
    let blocked = if log.blocked.is_some() { 1.0 } else { 0.0 };
    let values = log.values.iter().map(|(name, value)| {
        let name = format!("{}{}", names::LOG_PREFIX, identifier(name));
        family(name, "Reported by the topic log", vec![(Vec::new(), *value)])
    });
    std::iter::once(single(names::LOG_BLOCKED, blocked)).chain(values).collect()
}

/// One series for each connector and state, as for tasks; none when there is no connector.
pub(super) fn connector_states(connectors: &[(&str, &str)]) -> Option<MetricFamily> {
    let samples: Vec<Sample> = connectors
        .iter()
        .flat_map(|(connector, state)| {
            super::STATES.iter().map(move |each| {
                let labels = vec![("connector", (*connector).to_owned()), ("state", (*each).to_owned())];
                (labels, if each == state { 1.0 } else { 0.0 })
            })
        })
        .collect();
    let Name { name, help, .. } = names::CONNECTOR_STATE;
    (!samples.is_empty()).then(|| family(name.to_owned(), help, samples))
}

pub(super) fn connector_families(living: &[Arc<Series>]) -> Vec<MetricFamily> {
    let mut by_name: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
    for series in living {
        for (name, value) in series.gauges() {
            let [connector, task] = series.labels();
            let name = format!("{}{}", names::CONNECTOR_PREFIX, identifier(name));
            let labels = vec![("connector", connector), ("task", task)];
            by_name.entry(name).or_default().push((labels, value));
        }
    }
    let families = by_name.into_iter();
    families.map(|(name, samples)| family(name, "Reported by the connector", samples)).collect()
}

pub(super) fn process_families(usage: Usage) -> Vec<MetricFamily> {
    vec![
        single(names::PROCESS_RESIDENT, usage.resident_bytes),
        single(names::PROCESS_CPU, usage.cpu_seconds),
        single(names::PROCESS_FDS, usage.open_fds),
        single(names::PROCESS_START, usage.start_time_seconds),
    ]
}

type Sample = (Vec<(&'static str, String)>, f64);

fn single(name: Name, value: f64) -> MetricFamily {
    family(name.name.to_owned(), name.help, vec![(Vec::new(), value)])
}

/// A family known only by what was reported: a counter when its name ends like one, else a gauge.
fn family(name: String, help: &str, samples: Vec<Sample>) -> MetricFamily {
    let counts = name.ends_with("_total");
    let metrics = samples.into_iter().map(|(labels, value)| {
        let mut metric = proto::Metric::from_label(labels.into_iter().map(pair).collect());
        if counts {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    });
    let mut family = MetricFamily::default();
    family.set_metric(metrics.collect());
    family.set_name(name);
    family.set_help(help.to_owned());
    family.set_field_type(if counts { MetricType::COUNTER } else { MetricType::GAUGE });
    family
}

fn pair((name, value): (&'static str, String)) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value);
    pair
}

/// A name that cannot break the page.
fn identifier(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}
