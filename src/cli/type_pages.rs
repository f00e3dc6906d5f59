//! The manual's pages of types: what each type of a database becomes in an event, and the column that each sink makes of it.
//!
//! Nothing about a type is written here: a source's rows and a sink's columns come from the connectors ([`crate::registry`]), and the
//! event's type is read from the Avro schema that the source's records are registered under.

use rowstream_api::{Schema, TypeEffect, TypeRow};
use serde_json::Value as Json;

use super::table::Table;
use crate::registry::{self, SinkTypes};

/// Above each page.
const ABOUT: &str = "What each type becomes in an event: its Avro type, with the semantic name and its parameters in parentheses; \
    where a column allows NULL, a union of null and that. Then the type that a sink gives the column when it makes the table. A column that \
    is there already may be of another type: the sink takes each that holds every value unchanged, and refuses the others with the type \
    that is needed. What is refused of a record goes by the connector's `errors` settings.";

/// A page of types.
pub(super) struct TypePage {
    /// Its name.
    pub(super) name: &'static str,
    /// The sources and sinks that it is about.
    pub(super) connectors: Vec<&'static str>,
    servers: Vec<&'static str>,
    sinks: Vec<&'static str>,
    unlisted: &'static str,
    sections: Vec<Section>,
}

/// Types that the same servers have.
struct Section {
    servers: Vec<&'static str>,
    lines: Vec<Line>,
}

/// A type's line of the table.
#[derive(Clone, PartialEq)]
struct Line {
    sql: String,
    cells: Cells,
}

/// What stands beside a type.
#[derive(Clone, PartialEq)]
struct Cells {
    event: String,
    settings: String,
    columns: Vec<String>,
    remarks: String,
}

/// Every page.
pub(super) fn all() -> Vec<TypePage> {
    let sinks = registry::sink_types();
    let mut pages: Vec<TypePage> = Vec::new();
    for source in registry::source_types() {
        let lines: Vec<Line> = source.rows.iter().map(|row| line(row, &sinks)).collect();
        let section = Section { servers: vec![source.server], lines };
        match pages.iter_mut().find(|page| page.name == source.page) {
            Some(page) => page.join(source.connector, section),
            None => pages.push(TypePage {
                name: source.page,
                connectors: std::iter::once(source.connector)
                    .chain(sinks.iter().map(|s| s.connector))
                    .collect(),
                servers: vec![source.server],
                sinks: sinks.iter().map(|sink| sink.server).collect(),
                unlisted: source.unlisted,
                sections: vec![section],
            }),
        }
    }
    pages
}

/// The pages that belong to a connector.
pub(super) fn of_connector(pages: &[TypePage], connector: &str) -> Vec<String> {
    let of_it = pages.iter().filter(|page| page.connectors.contains(&connector));
    of_it.map(|page| page.name.to_owned()).collect()
}

impl TypePage {
    /// What it is about.
    pub(super) fn title(&self) -> String {
        format!("every type of {}, in an event and in a sink's table", self.servers.join(" and "))
    }

    /// How to read it.
    pub(super) fn about(&self) -> String {
        format!("{ABOUT} {}", self.unlisted)
    }

    /// Takes another server in: the first section keeps what all have alike.
    fn join(&mut self, connector: &'static str, mut other: Section) {
        self.connectors.insert(self.servers.len(), connector);
        self.servers.extend_from_slice(&other.servers);
        let Some(common) = self.sections.first_mut() else { return };
        let (alike, own) =
            std::mem::take(&mut common.lines).into_iter().partition(|l| other.lines.contains(l));
        let alone = Section { servers: std::mem::take(&mut common.servers), lines: own };
        common.servers = self.servers.clone();
        common.lines = alike;
        other.lines.retain(|line| !common.lines.contains(line));
        self.sections.extend([alone, other].into_iter().filter(|section| !section.lines.is_empty()));
    }

    fn headings(&self) -> Vec<String> {
        let mut headings = vec!["type".to_owned(), "event".to_owned()];
        if self.has_settings() {
            headings.push("with a setting".to_owned());
        }
        headings.extend(self.sinks.iter().map(|sink| format!("column in {sink}")));
        headings.push("remarks".to_owned());
        headings
    }

    fn has_settings(&self) -> bool {
        self.sections.iter().flat_map(|section| &section.lines).any(|line| !line.cells.settings.is_empty())
    }

    fn row(&self, types: String, cells: &Cells) -> Vec<String> {
        let mut row = vec![types, cells.event.clone()];
        if self.has_settings() {
            row.push(cells.settings.clone());
        }
        row.extend(cells.columns.iter().cloned());
        row.push(cells.remarks.clone());
        row
    }

    /// As Markdown; types that become the same share a line.
    pub(super) fn markdown(&self) -> String {
        let mut text = String::new();
        let written = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        for section in &self.sections {
            let headings = self.headings();
            text.push_str(&format!("\n## {}\n\n{}", section.servers.join(" and "), written(&headings)));
            text.push_str(&format!("|{}\n", " --- |".repeat(headings.len())));
            for group in section.lines.chunk_by(|a, b| a.cells == b.cells) {
                let types: Vec<&str> = group.iter().map(|line| line.sql.as_str()).collect();
                if let Some(line) = group.first() {
                    text.push_str(&written(&self.row(types.join(", "), &line.cells)));
                }
            }
        }
        text
    }

    /// For a terminal: each type on a line of its own.
    pub(super) fn plain(&self) -> String {
        let headings: Vec<String> = self.headings().iter().map(|heading| heading.to_uppercase()).collect();
        let mut text = String::new();
        for section in &self.sections {
            let mut table = Table::new(&headings.iter().map(String::as_str).collect::<Vec<_>>());
            for line in &section.lines {
                let row = self.row(line.sql.clone(), &line.cells);
                table.row(row.into_iter().map(|cell| cell.replace('`', "")));
            }
            let mut out = Vec::new();
            if table.write(&mut out).is_ok() {
                text.push_str(&format!("\n{}\n", section.servers.join(" and ")));
                text.push_str(&String::from_utf8_lossy(&out));
            }
        }
        text
    }
}

fn line(row: &TypeRow, sinks: &[SinkTypes]) -> Line {
    let mut remarks: Vec<String> = row.remark.iter().cloned().collect();
    let mut columns = Vec::new();
    for sink in sinks {
        let column = (sink.column)(&row.schema);
        let in_key = column.key_sql.map_or_else(String::new, |key| format!(", in a key `{key}`"));
        columns.push(format!("`{}`{in_key}", column.sql));
        remarks.extend(column.remark.map(|remark| format!("in {}: {remark}", sink.server)));
    }
    let settings: Vec<String> = row
        .options
        .iter()
        .map(|option| match &option.effect {
            TypeEffect::Schema(schema) => format!("`{}`: {}", option.setting, event_with(schema, sinks)),
            TypeEffect::Values(what) => format!("`{}`: {what}", option.setting),
        })
        .collect();
    let made_by = row.made_by.map_or_else(String::new, |statement| format!(" (`{statement}`)"));
    Line {
        sql: format!("`{}`{made_by}", row.sql),
        cells: Cells {
            event: event(&row.schema),
            settings: settings.join("; "),
            columns,
            remarks: remarks.join("; "),
        },
    }
}

/// An event's type under a setting, with the columns that follow from it.
fn event_with(schema: &Schema, sinks: &[SinkTypes]) -> String {
    let columns: Vec<String> = sinks.iter().map(|sink| format!("`{}`", (sink.column)(schema).sql)).collect();
    format!("{} ({})", event(schema), columns.join(", "))
}

/// A schema in words, from what is registered for it.
fn event(schema: &Schema) -> String {
    let json = rowstream_avro::to_avro_json(schema);
    serde_json::from_str(&json).map_or(json, |avro| in_words(&avro))
}

fn in_words(avro: &Json) -> String {
    match avro {
        Json::Array(branches) => {
            let (nulls, others): (Vec<_>, Vec<_>) = branches.iter().partition(|branch| **branch == "null");
            others.into_iter().chain(nulls).map(in_words).collect::<Vec<_>>().join(" or ")
        }
        Json::Object(object) => {
            let of = |key: &str| object.get(key);
            let name = of("type").map_or_else(String::new, in_words);
            let about = details(object);
            let about = if about.is_empty() { String::new() } else { format!(" ({})", about.join(", ")) };
            let items = of("items").or_else(|| of("values"));
            let items = items.map_or_else(String::new, |items| format!(" of {}", in_words(items)));
            let fields: Vec<String> =
                of("fields").and_then(Json::as_array).into_iter().flatten().map(field).collect();
            let fields = if fields.is_empty() { String::new() } else { format!(" of {}", fields.join(", ")) };
            format!("{name}{about}{items}{fields}")
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => text(avro),
    }
}

/// Name, Connect's narrower type, parameters.
fn details(object: &serde_json::Map<String, Json>) -> Vec<String> {
    let named = ["connect.name", "connect.type"].iter().filter_map(|key| object.get(*key)).map(text);
    let parameters = object.get("connect.parameters").and_then(Json::as_object);
    let parameter = |(key, value): (&String, &Json)| {
        let key = key.rsplit('.').next().unwrap_or(key);
        format!("{key} {}", text(value))
    };
    named.chain(parameters.into_iter().flatten().map(parameter)).collect()
}

fn field(field: &Json) -> String {
    let of = |key: &str| field.get(key).map_or_else(String::new, in_words);
    format!("{} {}", of("name"), of("type"))
}

fn text(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use rowstream_api::{SchemaBuilder, SchemaType};

    use super::*;

    #[test]
    fn schemas_are_told_in_words() {
        let plain = |ty| SchemaBuilder::new(ty).build();
        assert_eq!(event(&plain(SchemaType::Int64)), "long");
        assert_eq!(event(&plain(SchemaType::Int16)), "int (int16)");
        let micros = SchemaBuilder::new(SchemaType::Int64).name("io.debezium.time.MicroTimestamp").version(1);
        assert_eq!(event(&micros.build()), "long (io.debezium.time.MicroTimestamp)");
        let element = SchemaBuilder::new(SchemaType::Int32).optional().build();
        assert_eq!(event(&plain(SchemaType::Array(element))), "array of int or null");
        let decimal = SchemaBuilder::new(SchemaType::Bytes)
            .name("org.apache.kafka.connect.data.Decimal")
            .parameter("scale", "2")
            .parameter("connect.decimal.precision", "12");
        let words = event(&decimal.build());
        assert!(words.starts_with("bytes (org.apache.kafka.connect.data.Decimal, "), "{words}");
        assert!(words.contains("scale 2") && words.contains("precision 12"), "{words}");
        let point = SchemaBuilder::structure()
            .name("io.debezium.data.geometry.Point")
            .field("x", plain(SchemaType::Float64))
            .field("y", plain(SchemaType::Float64));
        assert_eq!(event(&point.build()), "record (io.debezium.data.geometry.Point) of x double, y double");
    }

    #[test]
    fn servers_that_share_a_page_share_what_is_alike() {
        let pages = all();
        let page = pages.iter().find(|page| page.name == "types-mysql").unwrap();
        let servers: Vec<_> = page.sections.iter().map(|section| section.servers.clone()).collect();
        assert_eq!(servers, [vec!["MySQL", "MariaDB"], vec!["MySQL"], vec!["MariaDB"]]);
        let of = |section: usize, sql: &str| page.sections[section].lines.iter().any(|line| line.sql == sql);
        assert!(of(0, "`INT`") && of(1, "`JSON`") && of(2, "`UUID`") && !of(0, "`UUID`"));
        assert_eq!(page.connectors, ["mysql-source", "mariadb-source", "postgres-sink", "mysql-sink"]);
    }
}
