//! Against `io.debezium.transforms.TimezoneConverter`.

use rowstream_api::{SchemaType, ValueRef};
use serde_json::{Value, json};

use crate::testing::{Owned, Table, apply, n, named, one, problems, required, s, step};

fn table() -> Table {
    Table::new(
        "t",
        &[
            ("id", required(SchemaType::Int32)),
            ("millis", named(SchemaType::Int64, "io.debezium.time.Timestamp")),
            ("micros", named(SchemaType::Int64, "io.debezium.time.MicroTimestamp")),
            ("zoned", named(SchemaType::String, "io.debezium.time.ZonedTimestamp")),
        ],
    )
}

fn row(zoned: &str, micros: i64) -> Vec<Owned> {
    vec![n(1), n(micros.div_euclid(1000)), n(micros), s(zoned)]
}

fn converted(zone: &str, zoned: &str, micros: i64) -> Value {
    let mut step = step("timezone", json!({"converted_timezone": zone}));
    one(&mut step, &table().create(row(zoned, micros))).value["after"].clone()
}

const HOUR_US: i64 = 3_600_000_000;

#[test]
fn instants_get_an_offset_and_wall_clocks_an_instant() {
    // 2026-07-01T12:00, summer; 2026-01-01T12:00, winter.
    for (zone, instant, micros, zoned, offset) in [
        (
            "Europe/Berlin",
            "2026-07-01T12:00:00Z",
            1_782_907_200_000_000,
            "2026-07-01T14:00:00.000000+02:00",
            2,
        ),
        (
            "Europe/Berlin",
            "2026-01-01T12:00:00.5Z",
            1_767_268_800_000_000,
            "2026-01-01T13:00:00.500000+01:00",
            1,
        ),
        ("+08:00", "2026-01-01T12:00:00Z", 1_767_268_800_000_000, "2026-01-01T20:00:00.000000+08:00", 8),
        ("UTC", "2026-01-01T12:00:00+01:00", 1_767_268_800_000_000, "2026-01-01T11:00:00.000000+00:00", 0),
    ] {
        let row = converted(zone, instant, micros);
        assert_eq!(row["zoned"], zoned, "{zone}");
        assert_eq!(row["micros"], json!(micros - offset * HOUR_US), "{zone}");
        assert_eq!(row["millis"], json!((micros - offset * HOUR_US) / 1000), "{zone}");
    }
}

/// `ZoneRules.getOffset(LocalDateTime)`: the first of two, and the offset before a gap.
#[test]
fn hours_that_come_twice_or_never() {
    let at = |wall: i64| converted("Europe/Berlin", "2026-01-01T00:00:00Z", wall)["micros"].as_i64().unwrap();
    let twice = 1_792_895_400_000_000; // 2026-10-25T02:30
    assert_eq!(at(twice), twice - 2 * HOUR_US);
    let never = 1_774_751_400_000_000; // 2026-03-29T02:30
    assert_eq!(at(never), never - HOUR_US);
}

#[test]
fn fields_are_chosen_and_nulls_stay() {
    let made = table()
        .update(vec![n(1), ValueRef::Null, ValueRef::Null, ValueRef::Null], row("2026-01-01T00:00:00Z", 0));
    let seen = |settings| one(&mut step("timezone", settings), &made).value;
    let only = seen(json!({"converted_timezone": "+01:00", "include_list": ["mic*"]}));
    assert_eq!((&only["after"]["micros"], &only["after"]["millis"]), (&json!(-HOUR_US), &json!(0)));
    assert_eq!(only["before"]["micros"], json!(null));
    let others = seen(json!({"converted_timezone": "+01:00", "exclude_list": ["mic*"]}));
    assert_eq!((&others["after"]["micros"], &others["after"]["millis"]), (&json!(0), &json!(-3_600_000)));
    let infinite = table().create(row("infinity", 0));
    let mut step = step("timezone", json!({"converted_timezone": "UTC"}));
    assert_eq!(apply(&mut step, &infinite).unwrap_err().code, "VALUE_OUT_OF_RANGE");
    let text = problems(
        "timezone",
        json!({"converted_timezone": "Mars", "include_list": ["a"], "exclude_list": ["b"]}),
    );
    assert!(text.contains("`Mars` is no zone") && text.contains("together with"), "{text}");
}

/// Values come from outside: an instant at the end of all calendars is converted or refused.
#[test]
fn no_instant_is_too_far() {
    for zone in ["+14:00", "-12:00", "Pacific/Kiritimati", "America/Adak", "Europe/Berlin"] {
        let mut step = step("timezone", json!({"converted_timezone": zone}));
        for zoned in [
            "+262142-12-31T23:59:59.999999Z",
            "-262143-01-01T00:00:00Z",
            "+292277-01-09T04:00:54Z",
            "0000-01-01T00:00:00Z",
        ] {
            for micros in [i64::MAX, i64::MIN, 8_210_266_876_799_999_999, -8_334_601_228_800_000_000] {
                if let Err(error) = apply(&mut step, &table().create(row(zoned, micros))) {
                    assert_eq!(error.code, "VALUE_OUT_OF_RANGE", "{zone} {zoned} {micros}");
                }
            }
        }
    }
}
