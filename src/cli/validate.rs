//! `rowstream validate`: everything that can be known to be wrong before `run`, all at once.
//!
//! First what the files say: worker.yaml, every connector file, names that occur twice, upstream resources that two connectors claim.
//! Then, unless `--offline`, each sound connector looks at its live system; what is missing there comes with what would mend
//! it (SQL, usually), and transforms are checked against the tables that the sources would capture. Nothing is changed anywhere.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use figment::{
    Figment,
    providers::{Format, Yaml},
};
use futures::future::join_all;
use rowstream_api::{Chain, Class, ConfigErrors, ConnectorError, Delivery, TableSchema};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use super::{
    exit::{Exit, Failure},
    print_json,
};
use crate::{
    admin::check,
    config::{TopicLogConfig, WorkerConfig},
    pipeline::{chain::ChainPlan, fit},
    registry::Plan,
    schema_registry::ConfluentRegistry,
    task::log_failure,
    topic_log::{self, TopicFilter},
    worker::{Exclusive, files},
};

/// Arguments of `validate`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rowstream validate --config worker.yaml
  rowstream validate --config worker.yaml --offline
  rowstream validate --config worker.yaml shop warehouse

Exits with 78 when something has to be changed, with 69 when all is well but a system can't be reached.")]
pub(super) struct ValidateArgs {
    /// worker.yaml
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Read files only, connect nowhere
    #[arg(long)]
    offline: bool,
    /// Print a JSON report
    #[arg(long)]
    json: bool,
    /// Connect for these connectors only
    connectors: Vec<String>,
}

/// A live look that takes longer than this is not going to end well.
const PREFLIGHT_WITHIN: Duration = Duration::from_secs(60);

struct Problem {
    exit: Exit,
    field: String,
    message: String,
    remedy: Option<String>,
}

/// What was found about one file.
struct Report {
    file: PathBuf,
    name: String,
    connector: String,
    delivery: Option<Delivery>,
    plan: Option<Plan>,
    transforms: Option<ChainPlan>,
    /// Of a sink.
    topics: Vec<String>,
    /// Of a source, once it was looked at.
    tables: Vec<Arc<TableSchema>>,
    problems: Vec<Problem>,
    looked: bool,
}

/// Prints what is wrong, and with which promise each connector would run.
pub(super) async fn validate(args: ValidateArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let mut reports = vec![Report::new(&args.config)];
    let (mut registry, mut kafka) = (None, None);
    let connectors = match WorkerConfig::load(&args.config) {
        Ok(config) => {
            registry = config.schema_registry.plan().ok().flatten().map(ConfluentRegistry::new);
            if let TopicLogConfig::Kafka(settings) = config.topic_log {
                kafka = Some(settings);
            }
            files::list(&config.connectors).unwrap_or_else(|error| {
                let message = format!("can't list {}: {error}", config.connectors.display());
                reports.push(worker_problem(&args.config, "connectors", message));
                Vec::new()
            })
        }
        Err(errors) => {
            if let Some(worker) = reports.first_mut() {
                worker.take(&errors);
            }
            // Wrong keys beside it do not make the directory unknown: all problems, at once.
            WorkerConfig::connectors_of(&args.config).and_then(|d| files::list(&d).ok()).unwrap_or_default()
        }
    };
    let mut found: Vec<Report> = connectors.iter().map(|file| read(file)).collect();
    cross_check(&mut found);
    reports.append(&mut found);
    let unknown: Vec<&String> =
        args.connectors.iter().filter(|name| !reports.iter().any(|r| r.name == **name)).collect();
    for name in unknown {
        reports.push(worker_problem(&args.config, "", format!("there is no connector `{name}`")));
    }
    if !args.offline {
        if let (Some(registry), Some(worker)) = (registry, reports.first_mut()) {
            probe(&registry, worker).await;
        }
        if let (Some(kafka), Some(worker)) = (kafka, reports.first_mut()) {
            worker.looked = true;
            for error in topic_log::kafka::probe(*kafka).await {
                worker.failed(&log_failure("look at the topic log", error));
            }
        }
        let wanted = |r: &&mut Report| args.connectors.is_empty() || args.connectors.contains(&r.name);
        let tables = if reports.iter().filter_map(|r| r.transforms.as_ref()).any(|chain| !chain.is_empty()) {
            Tables::Wanted
        } else {
            Tables::NotNeeded
        };
        join_all(reports.iter_mut().filter(wanted).map(|report| look(report, tables))).await;
        check_transforms(&mut reports);
    }
    if args.json {
        print_json(&Value::Array(reports.iter().map(Report::json).collect()), out)?;
    } else {
        for report in &reports {
            report.write(out)?;
        }
    }
    verdict(&reports)
}

fn verdict(reports: &[Report]) -> Result<(), Failure> {
    let worst = |exit| reports.iter().flat_map(|r| &r.problems).any(|p| p.exit == exit);
    match [Exit::Config, Exit::Unavailable].into_iter().find(|exit| worst(*exit)) {
        Some(exit) => Err(Failure::Said(exit)),
        None => Ok(()),
    }
}

fn worker_problem(file: &Path, field: &str, message: String) -> Report {
    let mut report = Report::new(file);
    report.problem(field, message);
    report
}

fn read(file: &Path) -> Report {
    let mut report = Report::new(file);
    let document: Map<String, Value> = match Figment::from(Yaml::file_exact(file)).extract::<Value>() {
        Ok(Value::Object(document)) => document,
        Ok(_) => {
            report.problem("", "expected keys with values: `name`, `connector`, `config` …".to_owned());
            return report;
        }
        Err(error) => {
            report.problem("", format!("not valid YAML: {error}"));
            return report;
        }
    };
    let text = |key: &str| document.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    (report.name, report.connector) = (text("name"), text("connector"));
    match check::document(&document) {
        Ok((spec, _, plan)) => {
            report.delivery = Some(plan.delivery());
            report.transforms = ChainPlan::of(&spec).ok();
            report.topics = spec.topics;
            report.plan = Some(plan);
        }
        Err(errors) => report.take(&errors),
    }
    report
}

/// Names and upstream resources belong to one connector each.
fn cross_check(reports: &mut [Report]) {
    let mut names: BTreeMap<String, PathBuf> = BTreeMap::new();
    let exclusive = Exclusive::default();
    for report in reports {
        if report.name.is_empty() {
            continue;
        }
        if let Some(other) = names.get(&report.name) {
            let message =
                format!("`{}` is already the name of the connector in {}", report.name, other.display());
            report.problem("name", message);
            continue;
        }
        names.insert(report.name.clone(), report.file.clone());
        let resources = report.plan.as_ref().map(Plan::exclusive).unwrap_or_default();
        if let Err(error) = exclusive.claim(&report.name, &resources) {
            report.failed(&error);
        }
    }
}

/// Asks the external registry for something small.
async fn probe(registry: &ConfluentRegistry, worker: &mut Report) {
    worker.looked = true;
    if let Err(error) = registry.probe().await {
        worker.failed(&error.into_failure("ask the schema registry".to_owned()));
    }
}

/// Whether a source's tables are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tables {
    Wanted,
    /// No connector has transforms, and a thousand tables take their time.
    NotNeeded,
}

/// Checks each connector's transforms with the schemas that the sources' tables give.
fn check_transforms(reports: &mut [Report]) {
    let mut known = Vec::new();
    for report in reports.iter_mut() {
        let Some(chain) = report.transforms.as_ref().filter(|_| !report.tables.is_empty()) else { continue };
        let (made, errors) = fit::of_source(chain, &report.tables);
        known.extend(made);
        report.take(&errors);
    }
    for report in reports.iter_mut().filter(|report| !report.topics.is_empty()) {
        let Some(chain) = &report.transforms else { continue };
        let errors = fit::of_sink(chain, &TopicFilter::new(report.topics.iter().cloned()), &known);
        report.take(&errors);
    }
}

async fn look(report: &mut Report, tables: Tables) {
    let Some(plan) = report.plan.take() else { return };
    report.looked = true;
    match within(plan.preflight(), "the system has not answered").await {
        Ok(()) => {}
        Err(error) => return report.failed(&error),
    }
    if let (Plan::Source(source), Tables::Wanted) = (&plan, tables) {
        match within(source.tables(), "its tables were not described, and transforms not checked").await {
            Ok(tables) => report.tables = tables,
            Err(error) => report.failed(&error),
        }
    }
}

async fn within<T>(
    answer: impl Future<Output = Result<T, ConnectorError>>,
    otherwise: &str,
) -> Result<T, ConnectorError> {
    let late = || {
        let message = format!("{otherwise} within {} s", PREFLIGHT_WITHIN.as_secs());
        Err(ConnectorError::transient("PREFLIGHT_TIMEOUT", message))
    };
    timeout(PREFLIGHT_WITHIN, answer).await.unwrap_or_else(|_| late())
}

impl Report {
    fn new(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            name: String::new(),
            connector: String::new(),
            delivery: None,
            plan: None,
            transforms: None,
            topics: Vec::new(),
            tables: Vec::new(),
            problems: Vec::new(),
            looked: false,
        }
    }

    fn problem(&mut self, field: &str, message: String) {
        self.problems.push(Problem { exit: Exit::Config, field: field.to_owned(), message, remedy: None });
    }

    fn take(&mut self, errors: &ConfigErrors) {
        for error in &errors.0 {
            self.problem(&error.field, error.message.clone());
        }
    }

    fn failed(&mut self, error: &ConnectorError) {
        let exit = match error.class {
            Class::Config | Class::Fatal => Exit::Config,
            Class::Transient => Exit::Unavailable,
        };
        self.problems.push(Problem {
            exit,
            field: error.code.to_owned(),
            message: Chain(error).to_string(),
            remedy: error.remedy.clone(),
        });
    }

    fn write(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let who = if self.name.is_empty() {
            String::new()
        } else {
            format!(": {} ({})", self.name, self.connector)
        };
        writeln!(out, "{}{who}", self.file.display())?;
        match &self.delivery {
            Some(Delivery::ExactlyOnce) => writeln!(out, "  delivery: exactly once")?,
            Some(Delivery::AtLeastOnce { because }) => {
                writeln!(out, "  delivery: at least once, because {because}")?
            }
            None => {}
        }
        for Problem { field, message, remedy, .. } in &self.problems {
            let colon = if field.is_empty() { "" } else { ": " };
            writeln!(out, "  problem: {field}{colon}{}", message.replace('\n', "\n    "))?;
            for (number, line) in remedy.iter().flat_map(|r| r.lines()).enumerate() {
                if number == 0 {
                    writeln!(out, "    what to do:")?;
                }
                writeln!(out, "      {line}")?;
            }
        }
        if self.problems.is_empty() {
            writeln!(out, "  {}", if self.looked { "ok, and its system is ready for it" } else { "ok" })?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let problems: Vec<Value> = self
            .problems
            .iter()
            .map(|p| json!({ "field": p.field, "message": p.message, "remedy": p.remedy }))
            .collect();
        let delivery = self.delivery.as_ref().map(|delivery| match delivery {
            Delivery::ExactlyOnce => json!({ "promise": "exactly_once" }),
            Delivery::AtLeastOnce { because } => json!({ "promise": "at_least_once", "because": because }),
        });
        json!({
            "file": self.file.display().to_string(), "name": self.name, "connector": self.connector,
            "delivery": delivery, "problems": problems, "connected": self.looked,
        })
    }
}
