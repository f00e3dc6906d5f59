//! `rowstream transform test`: unit tests of configuration.
//!
//! A connector's transforms are run on example records that stand beside its file, in `NAME.test.yaml`: no server, no daemon, no log.
//! [`document`] is the format, [`types`] and [`values`] turn what people write into schemas and values, [`records`] encodes them as the
//! log would hold them, [`run`] applies the chain as the daemon does, and [`diff`] says where the result differs.

mod diff;
mod document;
mod records;
mod run;
#[cfg(test)]
mod tests;
mod types;
mod values;

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use rowstream_api::ConfigErrors;
use serde_json::{Value, json};

use super::{
    exit::{Exit, Failure},
    print_json,
};
use document::SUFFIX;
use run::{Outcome, Problem};

/// Arguments of `transform`.
#[derive(Debug, Args)]
pub(super) struct TransformArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run a connector's transforms on the example records beside its file, and compare what comes out
    Test(TestArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  rowstream transform test connectors.d/shop.yaml      the cases of connectors.d/shop.test.yaml
  rowstream transform test connectors.d                every *.test.yaml of the directory
  rowstream transform test shop.test.yaml --print      what each case gives, too

A file of examples:
  connector: shop.yaml                 # or `transforms: [...]`; NAME.yaml beside NAME.test.yaml when neither is given
  env: { TOKEN_KEY: for-tests }        # what `${env:TOKEN_KEY}` of the transforms is here
  topic: shop.public.orders            # of records that name none
  tables:                              # types of rows; inferred from the examples where not given
    shop.public.orders:
      key: [id]
      columns: { id: int64 not null, region: string, amount: \"decimal(12,2)\" }
      # or value_schema: orders.avsc (and key_schema), as `rowstream schemas show` prints them
  cases:
    - name: orders of the north go to their topic
      input: { after: { id: 1, region: north, amount: 12.5 } }      # or a list; `value:` for a record without an envelope
      expect:
        - { topic: orders.north, key: { id: 1 }, after: { id: 1, amount: 12.5 } }
    - name: others are dropped
      input: { after: { id: 2, region: west } }
      expect: []                       # or `expect: { error: CODE }`

What `expect` does not name is not looked at; `value`, `before`, `after` and `key` are compared whole, `contains` by the fields it has.

Exits with 1 when a case fails, with 78 when a file can't be used.")]
struct TestArgs {
    /// Files of examples, connector files with one beside them, or directories
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print what each case gives
    #[arg(long)]
    print: bool,
    /// Print a JSON report
    #[arg(long)]
    json: bool,
}

/// What came of one file.
struct Report {
    file: PathBuf,
    outcome: Result<Vec<Outcome>, ConfigErrors>,
}

/// Does what was asked.
pub(super) fn transform(args: &TransformArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let Action::Test(args) = &args.action;
    let mut reports = Vec::new();
    for named in &args.files {
        for file in files_of(named)? {
            let outcome = document::read(&file).and_then(|document| run::run(&document));
            reports.push(Report { file, outcome });
        }
    }
    if args.json {
        print_json(&Value::Array(reports.iter().map(Report::json).collect()), out)?;
    } else {
        for report in &reports {
            report.write(args.print, out)?;
        }
        summary(&reports, out)?;
    }
    verdict(&reports)
}

/// The files of examples that a path stands for.
fn files_of(named: &Path) -> Result<Vec<PathBuf>, Failure> {
    let is_examples = |path: &Path| path.to_str().is_some_and(|path| path.ends_with(SUFFIX));
    if named.is_dir() {
        let entries = std::fs::read_dir(named)
            .map_err(|error| Failure::Config(format!("list {}: {error}", named.display())))?;
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let mut files: Vec<PathBuf> = paths.filter(|path| is_examples(path)).collect();
        files.sort();
        return if files.is_empty() {
            Err(Failure::Config(format!("{} holds no *{SUFFIX}", named.display())))
        } else {
            Ok(files)
        };
    }
    if !named.is_file() {
        return Err(Failure::Config(format!("there is no file {}", named.display())));
    }
    if is_examples(named) {
        return Ok(vec![named.to_owned()]);
    }
    // A connector's file has them beside it; any other file is one of examples under another name.
    let beside = named.with_extension(SUFFIX.trim_start_matches('.'));
    Ok(vec![if beside.is_file() { beside } else { named.to_owned() }])
}

fn summary(reports: &[Report], out: &mut dyn Write) -> Result<(), Failure> {
    let cases = || reports.iter().filter_map(|report| report.outcome.as_ref().ok()).flatten();
    let (all, passed) = (cases().count(), cases().filter(|case| case.problems.is_empty()).count());
    let unusable = reports.iter().filter(|report| report.outcome.is_err()).count();
    let files = match unusable {
        0 => String::new(),
        n => format!("; {n} file(s) can't be used"),
    };
    Ok(writeln!(out, "{passed} of {all} cases passed{files}")?)
}

fn verdict(reports: &[Report]) -> Result<(), Failure> {
    if reports.iter().any(|report| report.outcome.is_err()) {
        return Err(Failure::Said(Exit::Config));
    }
    let failed = |case: &Outcome| !case.problems.is_empty();
    if reports.iter().filter_map(|report| report.outcome.as_ref().ok()).flatten().any(failed) {
        return Err(Failure::Said(Exit::Failed));
    }
    Ok(())
}

impl Report {
    fn write(&self, print: bool, out: &mut dyn Write) -> Result<(), Failure> {
        writeln!(out, "{}", self.file.display())?;
        let cases = match &self.outcome {
            Ok(cases) => cases,
            Err(errors) => {
                for line in errors.to_string().lines() {
                    writeln!(out, "  problem: {line}")?;
                }
                return Ok(());
            }
        };
        for case in cases {
            let verdict = if case.problems.is_empty() { "ok    " } else { "FAILED" };
            writeln!(out, "  {verdict}  {}", case.name)?;
            for problem in &case.problems {
                write_problem(problem, out)?;
            }
            if print {
                let made = case.made.as_array().map_or(std::slice::from_ref(&case.made), Vec::as_slice);
                if made.is_empty() {
                    writeln!(out, "          (no record)")?;
                }
                for record in made {
                    writeln!(out, "          {record}")?;
                }
            }
        }
        Ok(())
    }

    fn json(&self) -> Value {
        match &self.outcome {
            Ok(cases) => {
                let cases: Vec<Value> = cases.iter().map(case_json).collect();
                json!({ "file": self.file.display().to_string(), "cases": cases })
            }
            Err(errors) => {
                let problems: Vec<Value> =
                    errors.0.iter().map(|e| json!({ "field": e.field, "message": e.message })).collect();
                json!({ "file": self.file.display().to_string(), "problems": problems })
            }
        }
    }
}

fn write_problem(problem: &Problem, out: &mut dyn Write) -> Result<(), Failure> {
    let side = |value: &Option<Value>| value.as_ref().map_or("(not there)".to_owned(), Value::to_string);
    match problem {
        Problem::Other(text) => writeln!(out, "          {text}")?,
        Problem::Field(number, difference) => {
            writeln!(out, "          record {number}, {}", difference.path)?;
            writeln!(out, "            - expected  {}", side(&difference.expected))?;
            writeln!(out, "            + found     {}", side(&difference.found))?;
        }
    }
    Ok(())
}

fn case_json(case: &Outcome) -> Value {
    let problem = |problem: &Problem| match problem {
        Problem::Other(text) => json!({ "message": text }),
        Problem::Field(number, difference) => json!({
            "record": number, "field": difference.path,
            "expected": difference.expected, "found": difference.found,
        }),
    };
    json!({
        "name": case.name, "passed": case.problems.is_empty(), "made": case.made,
        "problems": case.problems.iter().map(problem).collect::<Vec<Value>>(),
    })
}
