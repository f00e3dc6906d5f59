//! The list is whole as far as the code knows; `tests/types.rs` asks a server.

use rowstream_api::{ConfigSpec, SchemaType};

use super::*;
use crate::{source_config::SourceConfig, types::OF_EXTENSIONS};

#[test]
fn every_rule_of_the_code_is_listed() {
    let modifiers = (-1..=64).chain([numeric(12, 2), numeric(5, -2), numeric(38, 0)]);
    let modifiers: Vec<i32> = modifiers.collect();
    for oid in 0..USERS {
        for typmod in &modifiers {
            let rule = resolve(oid, *typmod, &TypeCatalog::new());
            let schema = rule.schema.build();
            if rule.kind == Kind::Text && schema.name().is_none() {
                continue; // No rule: its text.
            }
            let is_it = |listed: &&Listed| {
                let of_list = resolve(listed.oid, listed.typmod, &listed.catalog());
                let of_schema = of_list.schema.build();
                listed.oid == oid
                    && of_list.kind == rule.kind
                    && (of_schema.name(), std::mem::discriminant(of_schema.ty()))
                        == (schema.name(), std::mem::discriminant(schema.ty()))
            };
            assert!(
                LISTED.iter().any(|listed| is_it(&listed)),
                "type {oid}, modifier {typmod}, is {:?}: list it",
                rule.kind
            );
        }
    }
    for known in &OF_EXTENSIONS {
        let entry = CatalogType::Extension(known.extension.to_owned(), known.name.to_owned());
        let listed = LISTED.iter().any(|listed| listed.catalog().values().any(|found| *found == entry));
        assert!(listed, "type {} of extension {}: list it", known.name, known.extension);
    }
}

#[test]
fn every_way_to_make_a_type_is_listed() {
    let ways = |way: &str| {
        let of = |found: &CatalogType| match found {
            CatalogType::Enum(_) => "enum",
            CatalogType::Domain { .. } => "domain",
            CatalogType::Array { .. } => "array",
            CatalogType::Extension(..) => "extension",
            CatalogType::Other => "other",
        };
        LISTED.iter().any(|listed| listed.catalog().values().any(|found| of(found) == way))
    };
    for way in ["enum", "domain", "array", "extension", "other"] {
        assert!(ways(way), "{way}");
    }
}

#[test]
fn settings_about_types_are_told() {
    let about_types = SourceConfig::FIELDS.iter().filter(|field| field.path.starts_with("types."));
    let settings: Vec<&str> = about_types.map(|field| field.path).collect();
    assert!(settings.is_empty(), "tell in `type_table` what these change: {settings:?}");
}

#[test]
fn what_is_not_listed_becomes_its_text() {
    for entry in [CatalogType::Other, CatalogType::Extension("isn".to_owned(), "isbn".to_owned())] {
        let resolved = resolve(USERS, -1, &TypeCatalog::from([(USERS, entry)]));
        assert_eq!((resolved.kind, resolved.schema.build().ty()), (Kind::Text, &SchemaType::String));
    }
    assert!(UNLISTED.ends_with("its text."));
}

#[test]
fn rows_say_what_the_code_does() {
    let rows = type_table();
    let row = |sql: &str| rows.iter().find(|row| row.sql == sql).unwrap();
    assert_eq!(row("timestamp").schema.name(), Some("io.debezium.time.MicroTimestamp"));
    assert_eq!(row("price").schema, row("numeric(12,2)").schema);
    assert_eq!(row("vector(3)").schema.ty(), &SchemaType::String);
    assert_eq!(row("interval").remark.as_deref(), Some("microseconds; a month is `2629800000000`"));
    assert_eq!(
        row("date").remark.as_deref(),
        Some("`infinity` is `2147483647`, `-infinity` is `-2147483648`")
    );
    assert_eq!(row("hstore").remark.as_deref(), Some(r#"`a=>1` is `{"a":"1"}`"#));
    assert_eq!(row("integer[]").remark.as_deref(), Some("more than one dimension is refused"));
    let decimals = row("numeric(12,2)[]").remark.clone().unwrap();
    assert_eq!(decimals, "`NaN` and infinities are refused; more than one dimension is refused");
}
