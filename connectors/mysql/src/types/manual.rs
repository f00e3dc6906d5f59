//! The manual's table of types: what each type of MySQL and of MariaDB becomes.
//!
//! Only the types are written down here, in the form in which the binlog and the catalog tell them. What each becomes is asked of
//! [`resolve`], with no setting and with each value of each setting about types, so the table can't say anything else than the tasks do. The list
//! is whole: the tests walk every type code and each form of it that [`resolve`] tells apart; on real servers they create each type
//! listed here and compare.

use rowstream_api::{ConfigSpec, FieldKind, TypeEffect, TypeOption, TypeRow};
use serde_json::json;

use super::{CatalogColumn, Kind, Resolved, TypeOptions, Zero, charset::Charset, resolve};
use crate::{
    connection::Flavour,
    source_config::{SourceConfig, TypesConfig},
    wire::table_map::{ColumnShape, column},
};

/// A type as the server tells it.
struct Listed {
    sql: &'static str,
    /// Which of the servers has it in this form; both without.
    only: Option<Flavour>,
    ty: u8,
    meta: u16,
    unsigned: bool,
    charset: Option<Charset>,
    labels: &'static [&'static str],
    geometry: Option<u8>,
    /// `data_type` of information_schema, where the binlog does not tell enough.
    data_type: &'static str,
}

const fn plain(sql: &'static str, ty: u8, meta: u16) -> Listed {
    Listed {
        sql,
        only: None,
        ty,
        meta,
        unsigned: false,
        charset: None,
        labels: &[],
        geometry: None,
        data_type: "",
    }
}

const fn unsigned(sql: &'static str, ty: u8) -> Listed {
    Listed { unsigned: true, ..plain(sql, ty, 0) }
}

const fn text(sql: &'static str, ty: u8, meta: u16) -> Listed {
    Listed { charset: Some(Charset::Utf8), ..plain(sql, ty, meta) }
}

const fn binary(sql: &'static str, ty: u8, meta: u16) -> Listed {
    Listed { charset: Some(Charset::Binary), ..plain(sql, ty, meta) }
}

const fn labelled(sql: &'static str, ty: u8, labels: &'static [&'static str]) -> Listed {
    Listed { labels, ..text(sql, ty, 1) }
}

const fn geometry(sql: &'static str, kind: u8) -> Listed {
    Listed { geometry: Some(kind), ..plain(sql, column::GEOMETRY, 4) }
}

const fn mysql(listed: Listed) -> Listed {
    Listed { only: Some(Flavour::MySql), ..listed }
}

const fn mariadb(data_type: &'static str, listed: Listed) -> Listed {
    Listed { only: Some(Flavour::MariaDb), data_type, ..listed }
}

/// Precision above scale.
const fn decimal(sql: &'static str, precision: u8, scale: u8) -> Listed {
    plain(sql, column::NEWDECIMAL, u16::from_be_bytes([precision, scale]))
}

const LISTED: &[Listed] = &[
    plain("BOOLEAN", column::TINY, 0),
    plain("TINYINT", column::TINY, 0),
    unsigned("TINYINT UNSIGNED", column::TINY),
    plain("SMALLINT", column::SHORT, 0),
    unsigned("SMALLINT UNSIGNED", column::SHORT),
    plain("MEDIUMINT", column::INT24, 0),
    unsigned("MEDIUMINT UNSIGNED", column::INT24),
    plain("INT", column::LONG, 0),
    unsigned("INT UNSIGNED", column::LONG),
    plain("BIGINT", column::LONGLONG, 0),
    unsigned("BIGINT UNSIGNED", column::LONGLONG),
    plain("FLOAT", column::FLOAT, 4),
    unsigned("FLOAT UNSIGNED", column::FLOAT),
    plain("DOUBLE", column::DOUBLE, 8),
    unsigned("DOUBLE UNSIGNED", column::DOUBLE),
    decimal("DECIMAL", 10, 0),
    decimal("DECIMAL(12,2)", 12, 2),
    Listed { unsigned: true, ..decimal("DECIMAL(12,2) UNSIGNED", 12, 2) },
    decimal("DECIMAL(65,30)", 65, 30),
    plain("BIT(1)", column::BIT, 1),
    plain("BIT(8)", column::BIT, 8),
    plain("BIT(64)", column::BIT, 64),
    plain("YEAR", column::YEAR, 0),
    plain("DATE", column::DATE, 0),
    plain("TIME", column::TIME2, 0),
    plain("TIME(3)", column::TIME2, 3),
    plain("TIME(6)", column::TIME2, 6),
    plain("DATETIME", column::DATETIME2, 0),
    plain("DATETIME(3)", column::DATETIME2, 3),
    plain("DATETIME(4)", column::DATETIME2, 4),
    plain("DATETIME(6)", column::DATETIME2, 6),
    plain("TIMESTAMP", column::TIMESTAMP2, 0),
    plain("TIMESTAMP(3)", column::TIMESTAMP2, 3),
    plain("TIMESTAMP(6)", column::TIMESTAMP2, 6),
    text("CHAR(10)", column::STRING, 40),
    text("VARCHAR(20)", column::VARCHAR, 80),
    text("TINYTEXT", column::BLOB, 1),
    text("TEXT", column::BLOB, 2),
    text("MEDIUMTEXT", column::BLOB, 3),
    text("LONGTEXT", column::BLOB, 4),
    binary("BINARY(16)", column::STRING, 16),
    binary("VARBINARY(20)", column::VARCHAR, 20),
    binary("TINYBLOB", column::BLOB, 1),
    binary("BLOB", column::BLOB, 2),
    binary("MEDIUMBLOB", column::BLOB, 3),
    binary("LONGBLOB", column::BLOB, 4),
    labelled("ENUM('sad','happy')", column::ENUM, &["sad", "happy"]),
    labelled("SET('a','b')", column::SET, &["a", "b"]),
    mysql(plain("JSON", column::JSON, 4)),
    mariadb("json", text("JSON", column::BLOB, 4)),
    geometry("POINT", 1),
    geometry("LINESTRING", 2),
    geometry("POLYGON", 3),
    geometry("MULTIPOINT", 4),
    geometry("MULTILINESTRING", 5),
    geometry("MULTIPOLYGON", 6),
    geometry("GEOMETRYCOLLECTION", 7),
    geometry("GEOMETRY", 0),
    mysql(plain("VECTOR(3)", column::VECTOR, 4)),
    mariadb("vector", binary("VECTOR(3)", column::VARCHAR, 12)),
    mariadb("uuid", binary("UUID", column::STRING, 16)),
    mariadb("inet4", binary("INET4", column::STRING, 4)),
    mariadb("inet6", binary("INET6", column::STRING, 16)),
    mariadb("varchar", text("VARCHAR(20) COMPRESSED", column::VARCHAR_COMPRESSED, 81)),
    mariadb("text", text("TEXT COMPRESSED", column::BLOB_COMPRESSED, 2)),
    mariadb("varbinary", binary("VARBINARY(20) COMPRESSED", column::VARCHAR_COMPRESSED, 21)),
    mariadb("blob", binary("BLOB COMPRESSED", column::BLOB_COMPRESSED, 2)),
];

/// Of what the table does not tell.
pub const UNLISTED: &str = "Text of every character set is UTF-8 in the event; a captured column in a character set that is not known stops the \
    connector, and says so.";

/// What a setting makes of every type: the setting with its value, and what it means.
type Setting = (String, TypeOptions);

/// Each value but the default of each setting about types.
fn settings() -> Vec<Setting> {
    let mut settings = Vec::new();
    for field in SourceConfig::FIELDS {
        let (Some(name), FieldKind::Choice(words)) = (field.path.strip_prefix("types."), field.kind) else {
            continue;
        };
        for word in words.iter().filter(|word| field.default != Some(**word)) {
            let config = serde_json::from_value::<TypesConfig>(json!({ name: word }));
            settings.extend(config.map(|types| (format!("{}: {word}", field.path), types.into())));
        }
    }
    settings
}

impl Listed {
    fn resolve(&self, nullable: bool, options: TypeOptions) -> Option<Resolved> {
        let shape = ColumnShape {
            name: String::new(),
            ty: self.ty,
            meta: self.meta,
            nullable,
            unsigned: self.unsigned,
            collation: None,
            labels: self.labels.iter().map(|label| label.as_bytes().to_vec()).collect(),
            geometry: self.geometry,
            visible: true,
        };
        let known = CatalogColumn { data_type: self.data_type.to_owned(), ..CatalogColumn::default() };
        resolve(&shape, self.charset, Some(&known), options).ok()
    }

    fn row(&self, settings: &[Setting]) -> Option<TypeRow> {
        let of_setting = |options| self.resolve(false, options);
        let usual = of_setting(TypeOptions::default())?;
        let schema = usual.schema.clone().build();
        let changed = |(setting, options): &Setting| {
            let other = of_setting(*options)?;
            let of_other = other.schema.build();
            let effect = if of_other != schema {
                TypeEffect::Schema(of_other)
            } else if other.kind != usual.kind {
                TypeEffect::Values(zero_dates(zero(&other.kind)?))
            } else {
                return None;
            };
            Some(TypeOption { setting: setting.clone(), effect })
        };
        let nullable = self.resolve(true, TypeOptions::default())?;
        Some(TypeRow {
            sql: self.sql,
            made_by: None,
            options: settings.iter().filter_map(changed).collect(),
            remark: remark(&nullable.kind, &usual.kind),
            schema,
        })
    }
}

/// What each type of a server becomes.
#[must_use]
pub fn type_table(flavour: Flavour) -> Vec<TypeRow> {
    let settings = settings();
    let of_server = LISTED.iter().filter(|listed| listed.only.is_none_or(|only| only == flavour));
    of_server.filter_map(|listed| listed.row(&settings)).collect()
}

fn zero(kind: &Kind) -> Option<Zero> {
    match kind {
        Kind::Date(zero) | Kind::Datetime { zero, .. } | Kind::Timestamp { zero, .. } => Some(*zero),
        Kind::Int
        | Kind::Unsigned
        | Kind::UnsignedDecimal
        | Kind::Float32
        | Kind::Float64
        | Kind::Decimal { .. }
        | Kind::Bit
        | Kind::Bits
        | Kind::Year
        | Kind::Time { .. }
        | Kind::Text { .. }
        | Kind::Bytes { .. }
        | Kind::Enum(_)
        | Kind::Set(_)
        | Kind::Json
        | Kind::JsonText
        | Kind::Geometry
        | Kind::Point
        | Kind::Vector
        | Kind::Uuid
        | Kind::Inet4
        | Kind::Inet6 => None,
    }
}

fn zero_dates(zero: Zero) -> &'static str {
    match zero {
        Zero::Null => "zero dates are NULL",
        Zero::Epoch => "zero dates are 1970-01-01",
        Zero::Refuse => "zero dates are refused",
    }
}

/// Of a column that allows NULL, and of one that forbids it. Without a wildcard: a new kind must be thought about.
fn remark(nullable: &Kind, required: &Kind) -> Option<String> {
    let remark = match required {
        Kind::Date(_) | Kind::Datetime { .. } => zero_remark(nullable, required)?,
        Kind::Timestamp { .. } => format!("in UTC; {}", zero_remark(nullable, required)?),
        Kind::Bits => "the lowest bits first".to_owned(),
        Kind::Bytes { padded: Some(_), .. } => "with the zeros at its end".to_owned(),
        Kind::Json => "as the server prints it".to_owned(),
        Kind::JsonText => "as it was written".to_owned(),
        Kind::Inet4 | Kind::Inet6 => "as the server prints it".to_owned(),
        Kind::Int
        | Kind::Unsigned
        | Kind::UnsignedDecimal
        | Kind::Float32
        | Kind::Float64
        | Kind::Decimal { .. }
        | Kind::Bit
        | Kind::Year
        | Kind::Time { .. }
        | Kind::Text { .. }
        | Kind::Bytes { padded: None, .. }
        | Kind::Enum(_)
        | Kind::Set(_)
        | Kind::Geometry
        | Kind::Point
        | Kind::Vector
        | Kind::Uuid => return None,
    };
    Some(remark)
}

fn zero_remark(nullable: &Kind, required: &Kind) -> Option<String> {
    let (nullable, required) = (zero_dates(zero(nullable)?), zero_dates(zero(required)?));
    Some(format!("{nullable}; where NULL is forbidden {required}"))
}

#[cfg(test)]
mod tests;
