//! The list is whole as far as the code knows; `tests/source/manual.rs` asks servers.

use std::mem::discriminant;

use rowstream_api::SchemaType;

use super::*;

/// Codes that the servers write only for tables from before MySQL 5.6 (they become what their successors become), for dates of
/// before 5.0, and never.
const OLD: &[u8] = &[column::TIME, column::DATETIME, column::TIMESTAMP, column::NEWDATE];

/// Each form of a type code that may matter.
fn forms(ty: u8) -> Vec<Listed> {
    let data_types = ["", "json", "uuid", "inet4", "inet6", "vector", "xmltype", "char"];
    let metas = [0, 1, 3, 4, 6, 64, 0x0c02];
    let charsets = [None, Some(Charset::Utf8), Some(Charset::Binary)];
    let mut forms = Vec::new();
    for meta in metas {
        for charset in charsets {
            for geometry in [None, Some(0), Some(1), Some(2)] {
                for data_type in data_types {
                    for unsigned in [false, true] {
                        forms.push(Listed { unsigned, charset, geometry, data_type, ..plain("", ty, meta) });
                    }
                }
            }
        }
    }
    forms
}

/// What tells two rules apart.
fn rule(resolved: Resolved) -> (Kind, Option<String>, SchemaType) {
    // What a modifier alone changes is one rule.
    let kind = match resolved.kind {
        Kind::Decimal { .. } => Kind::Decimal { precision: 0, scale: 0 },
        Kind::Time { old, .. } => Kind::Time { digits: 0, old },
        Kind::Datetime { old, zero, .. } => Kind::Datetime { digits: 0, old, zero },
        Kind::Timestamp { old, zero, .. } => Kind::Timestamp { digits: 0, old, zero },
        Kind::Bytes { padded, compressed } => Kind::Bytes { padded: padded.map(|_| 0), compressed },
        Kind::Enum(_) => Kind::Enum([].into()),
        Kind::Set(_) => Kind::Set([].into()),
        same @ (Kind::Int
        | Kind::Unsigned
        | Kind::UnsignedDecimal
        | Kind::Float32
        | Kind::Float64
        | Kind::Bit
        | Kind::Bits
        | Kind::Year
        | Kind::Date(_)
        | Kind::Text { .. }
        | Kind::Json
        | Kind::JsonText
        | Kind::Geometry
        | Kind::Point
        | Kind::Vector
        | Kind::Uuid
        | Kind::Inet4
        | Kind::Inet6) => same,
    };
    let schema = resolved.schema.build();
    (kind, schema.name().map(str::to_owned), schema.ty().clone())
}

#[test]
fn every_rule_of_the_code_is_listed() {
    for option in settings().into_iter().map(|(_, options)| options).chain([TypeOptions::default()]) {
        let known: Vec<_> =
            LISTED.iter().map(|listed| rule(listed.resolve(false, option).unwrap())).collect();
        for ty in (0..=255).filter(|ty| !OLD.contains(ty)) {
            for form in forms(ty) {
                let Some(resolved) = form.resolve(false, option) else { continue };
                let rule = rule(resolved);
                assert!(known.contains(&rule), "type code {ty} ({}) is {rule:?}: list it", form.data_type);
            }
        }
    }
}

#[test]
fn every_type_code_that_needs_no_charset_is_listed() {
    for ty in (0..=255).filter(|ty| !OLD.contains(ty)) {
        for unsigned in [false, true] {
            let form = Listed { unsigned, ..plain("", ty, 1) };
            let Some(resolved) = form.resolve(false, TypeOptions::default()) else { continue };
            let has_sign = matches!(resolved.kind, Kind::Int | Kind::Unsigned | Kind::UnsignedDecimal);
            let is_it = |listed: &&Listed| listed.ty == ty && (!has_sign || listed.unsigned == unsigned);
            assert!(
                LISTED.iter().any(|listed| is_it(&listed)),
                "type code {ty}, unsigned {unsigned}: list it"
            );
        }
    }
}

#[test]
fn old_forms_are_what_their_successors_are() {
    for (old, new) in [
        (column::TIME, column::TIME2),
        (column::DATETIME, column::DATETIME2),
        (column::TIMESTAMP, column::TIMESTAMP2),
        (column::NEWDATE, column::DATE),
    ] {
        let of = |ty| plain("", ty, 0).resolve(false, TypeOptions::default()).unwrap();
        assert_eq!(of(old).schema.build(), of(new).schema.build());
        assert_eq!(discriminant(&of(old).kind), discriminant(&of(new).kind));
    }
}

#[test]
fn every_setting_about_types_changes_a_row() {
    let settings = settings();
    let about_types = SourceConfig::FIELDS.iter().filter(|field| field.path.starts_with("types."));
    for field in about_types {
        let shown = settings.iter().find(|(setting, _)| setting.starts_with(field.path));
        let (setting, _) = shown.unwrap_or_else(|| panic!("{} is not told", field.path));
        let rows = type_table(Flavour::MySql);
        let changed = rows.iter().any(|row| row.options.iter().any(|option| option.setting == *setting));
        assert!(changed, "{setting} changes nothing that the table tells");
    }
}

#[test]
fn rows_say_what_the_code_does() {
    let rows = type_table(Flavour::MariaDb);
    let row = |sql: &str| rows.iter().find(|row| row.sql == sql).unwrap();
    let unsigned = row("BIGINT UNSIGNED");
    assert_eq!(unsigned.schema.name(), Some("org.apache.kafka.connect.data.Decimal"));
    let [option] = unsigned.options.as_slice() else { panic!("{:?}", unsigned.options) };
    assert_eq!(option.setting, "types.bigint_unsigned: long");
    assert!(matches!(&option.effect, TypeEffect::Schema(schema) if *schema.ty() == SchemaType::Int64));
    let date = row("DATE");
    assert_eq!(
        date.options,
        [TypeOption {
            setting: "types.zero_dates: fail".to_owned(),
            effect: TypeEffect::Values("zero dates are refused")
        }]
    );
    assert_eq!(
        date.remark.as_deref(),
        Some("zero dates are NULL; where NULL is forbidden zero dates are 1970-01-01")
    );
    assert_eq!(row("UUID").schema.name(), Some("io.debezium.data.Uuid"));
    assert!(type_table(Flavour::MySql).iter().all(|row| row.sql != "UUID"));
    assert_eq!(LISTED.len(), LISTED.iter().filter_map(|l| l.row(&settings())).count(), "none is left out");
}
