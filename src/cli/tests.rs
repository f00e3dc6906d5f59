//! Arguments, tables and reports.

use std::time::{Duration, UNIX_EPOCH};

use clap::{CommandFactory, Parser};
use serde_json::json;

use super::{Cli, describe, exit::Exit, snapshot, status};

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
    for line in [
        "rowstream run --config worker.yaml --log-format json",
        "rowstream validate -c worker.yaml --offline shop",
        "rowstream connectors create shop.yaml --stopped --url http://x:1",
        "rowstream connectors restart shop --only-failed",
        "rowstream topics read t --follow --from-beginning --limit 3 --partition 0 --json",
        "rowstream describe webhook",
        "rowstream snapshot start shop public.orders public.items --where id>7 --json",
        "rowstream snapshot cancel shop",
        "rowstream transform test connectors.d shop.test.yaml --print",
        "rowstream tap shop --stage unwrap --values --limit 5",
        "rowstream dead-letters show warehouse --where VALUE_OUT_OF_RANGE --waiting --limit 3",
        "rowstream dead-letters redrive warehouse --offset 12 --offset 13 --partition 0 --to-topic",
        "rowstream dead-letters redrive warehouse --all",
        "rowstream snapshot status shop --watch",
        "rowstream snapshot limit shop 5000",
        "rowstream snapshot limit shop",
    ] {
        if let Err(error) = Cli::try_parse_from(line.split(' ')) {
            panic!("{line}: {error}");
        }
    }
    let error =
        Cli::try_parse_from(["rowstream", "topics", "read", "t", "--offset", "1", "--from-beginning"]);
    assert_eq!(error.unwrap_err().exit_code(), Exit::Usage as i32);
    let error = Cli::try_parse_from(["rowstream", "dead-letters", "redrive", "warehouse"]);
    assert_eq!(error.unwrap_err().exit_code(), Exit::Usage as i32, "all of them must be asked for");
}

#[test]
fn help_names_the_exit_codes() {
    let help = Cli::command().render_long_help().to_string();
    for exit in [Exit::Ok, Exit::Failed, Exit::Usage, Exit::Unavailable, Exit::Config] {
        assert!(help.contains(&format!("\n  {}  ", exit as u8)), "{exit:?} is not in:\n{help}");
    }
}

#[test]
fn status_shows_each_connector_and_what_to_do() {
    let body = json!({
        "status": "not ready",
        "problems": [{ "problem": "task is FAILED", "connector": "shop", "task": 0,
                       "detail": "PG_X: create slot: denied\nwhat to do: GRANT …" }],
        "connectors": [{
            "name": "shop", "class": "postgres-source", "connector": { "state": "RUNNING" },
            "delivery": { "promise": "exactly_once" },
            "tasks": [{ "id": 0, "state": "FAILED",
                        "progress": { "records": 12, "last_commit_ms": 5_000, "notes": { "w": "waits" } } }],
        }],
    });
    let mut out = Vec::new();
    status::write(&body, UNIX_EPOCH + Duration::from_secs(65), &mut out).unwrap();
    let expected = "\
NAME  CONNECTOR        STATE    TASKS     RECORDS  LAST COMMIT  DELIVERY      NOTES
shop  postgres-source  RUNNING  1 FAILED  12       60 s ago     exactly once  waits

shop task 0: task is FAILED
    PG_X: create slot: denied
    what to do: GRANT …
";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn a_snapshot_shows_each_table_and_why_one_is_not_read() {
    let body = json!({
        "connector": "shop", "connector_state": "RUNNING", "state": "RUNNING",
        "reading": { "table": "public.a", "request": "1", "where": "id > 7" },
        "waiting": [{ "table": "public.b" }],
        "rows": 30, "table_rows": 30, "percent": 12.34, "rows_per_second": 10.0, "eta_seconds": 7.0,
        "table_rows_estimated": 60.0, "table_percent": 50.0, "table_eta_seconds": 3.0,
        "requests": [{ "id": "2", "action": "pause", "asked_at_ms": 1 }],
        "refused": [{ "request": "0", "tables": ["public.c"], "reason": "it has no key" }],
        "position_lost": { "code": "X", "reason": "no slot", "since": "0/1", "since_ms": 1000, "found_ms": 5000 },
    });
    let mut out = Vec::new();
    snapshot::show::write(&body, UNIX_EPOCH + Duration::from_secs(65), &mut out).unwrap();
    let expected = "\
shop: snapshot RUNNING, connector RUNNING, 12.3 %, 10 rows/s, about 7 s left
position lost 60 s ago: X: no slot
    all tables were read anew; rows that were deleted since 0/1 (64 s ago) are not told

TABLE     STATE    ROWS  ABOUT         LEFT  WHERE   REASON
public.a  reading  30    50.0 % of 60  3 s   id > 7
public.b  waiting  -     -             -
(pause)   asked    -     -             -
public.c  refused  -     -             -             it has no key
";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn the_reference_is_fresh() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/reference");
    let expected = describe::reference();
    let mut names: Vec<String> = expected.iter().map(|(name, _)| name.clone()).collect();
    for (name, text) in expected {
        let found = std::fs::read_to_string(directory.join(&name)).unwrap_or_default();
        assert_eq!(found, text, "{name} is stale: run `cargo run -- describe --markdown config/reference`");
    }
    let entries = std::fs::read_dir(&directory).unwrap();
    let mut found: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    found.sort();
    assert_eq!(found, names, "a page of something that is gone");
}
