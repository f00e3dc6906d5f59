//! Whether transforms fit the schemas of what will go through them, before any record does.
//!
//! A source's are known from its tables, a sink's from what the sources of the same worker make of theirs. A problem that is reported would
//! refuse every record of a topic; what depends on values is not, so silence is no promise. A topic that nothing is known of is left alone.

use std::{collections::BTreeMap, sync::Arc};

use rowstream_api::{ConfigErrors, TableSchema};
use rowstream_transforms::{Fit, Unfit};

use super::chain::ChainPlan;
use crate::topic_log::TopicFilter;

/// Topics that a problem names; the others are counted.
const TOPICS_NAMED: usize = 3;

/// What a source's records become.
///
/// # Errors
/// Every step that would refuse all records of a table, under `transforms.NAME`, beside what the other tables become.
pub fn of_source(chain: &ChainPlan, tables: &[Arc<TableSchema>]) -> (Vec<Fit>, ConfigErrors) {
    let records = tables.iter().map(|table| Fit {
        topic: Arc::clone(&table.topic),
        key: table.key.clone(),
        value: Arc::clone(&table.envelope),
    });
    through(chain, records)
}

/// What is wrong with a sink's transforms for the topics that it reads and that are known.
#[must_use]
pub fn of_sink(chain: &ChainPlan, topics: &TopicFilter, known: &[Fit]) -> ConfigErrors {
    through(chain, known.iter().filter(|fit| topics.matches(&fit.topic)).cloned()).1
}

fn through(chain: &ChainPlan, records: impl Iterator<Item = Fit>) -> (Vec<Fit>, ConfigErrors) {
    let mut built = match chain.build() {
        Ok(Some(chain)) => chain,
        Ok(None) => return (records.collect(), ConfigErrors::default()),
        Err(errors) => return (Vec::new(), errors),
    };
    let mut made = Vec::new();
    // Many tables may have one and the same problem.
    let mut problems: BTreeMap<(String, String), Vec<Arc<str>>> = BTreeMap::new();
    for Fit { topic, key, value } in records {
        match built.check(&topic, key.as_ref(), &value) {
            Ok(fits) => made.extend(fits),
            Err(Unfit { step, error }) => problems.entry((step, error.message)).or_default().push(topic),
        }
    }
    let mut errors = ConfigErrors::default();
    for ((step, message), topics) in problems {
        errors.push(
            format!("transforms.{step}"),
            format!("{message}; it would refuse {}", records_of(&topics)),
        );
    }
    (made, errors)
}

fn records_of(topics: &[Arc<str>]) -> String {
    let named: Vec<String> = topics.iter().take(TOPICS_NAMED).map(|topic| format!("`{topic}`")).collect();
    let more = match topics.len().saturating_sub(TOPICS_NAMED) {
        0 => String::new(),
        more => format!(" and of {more} more"),
    };
    format!("every record of {}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use rowstream_api::{Schema, SchemaBuilder, SchemaType};
    use serde_json::{Value, json};

    use super::*;
    use crate::config::ConnectorSpec;

    fn chain(steps: &Value) -> ChainPlan {
        let document = json!({ "name": "x", "connector": "x", "transforms": steps });
        let Value::Object(document) = document else { panic!("no document") };
        ChainPlan::of(&ConnectorSpec::from_document(document).unwrap()).unwrap()
    }

    fn row(columns: &[&str]) -> Arc<Schema> {
        let text = || SchemaBuilder::new(SchemaType::String).optional().build();
        columns.iter().fold(SchemaBuilder::structure().name("t.Value"), |b, c| b.field(*c, text())).build()
    }

    fn table(topic: &str, columns: &[&str]) -> Arc<TableSchema> {
        let value = row(columns);
        let image = value.to_builder().optional().build();
        let envelope = SchemaBuilder::structure()
            .name("t.Envelope")
            .field("before", Arc::clone(&image))
            .field("after", image)
            .field("op", SchemaBuilder::new(SchemaType::String).build())
            .build();
        Arc::new(TableSchema { topic: topic.into(), key: None, key_columns: Vec::new(), value, envelope })
    }

    #[test]
    fn one_problem_of_many_tables_is_told_once() {
        let tables: Vec<_> = ["a", "b", "c", "d", "e"].map(|topic| table(topic, &["name"])).to_vec();
        let chain =
            chain(&json!([{ "type": "filter", "name": "north", "condition": "after.region == 'north'" }]));
        let (made, errors) = of_source(&chain, &tables);
        assert!(made.is_empty());
        assert_eq!(
            errors.to_string(),
            "transforms.north: `after.region` is not known; known are name; \
             it would refuse every record of `a`, `b`, `c` and of 2 more"
        );
    }

    #[test]
    fn a_sink_is_checked_with_what_a_source_makes() {
        let source =
            chain(&json!([{ "type": "unwrap" }, { "type": "rename", "fields": { "name": "called" } }]));
        let (made, errors) =
            of_source(&source, &[table("shop.a", &["id", "name"]), table("shop.b", &["id"])]);
        assert_eq!(errors, ConfigErrors::default());
        assert_eq!(made[0].value.fields()[1].name, "called");
        let sink = chain(&json!([{ "type": "filter", "condition": "after.name == 'x'" }]));
        let errors = of_sink(&sink, &TopicFilter::new(["shop.a".to_owned()]), &made);
        assert!(errors.to_string().contains("every record of `shop.a`"), "{errors}");
        assert_eq!(of_sink(&sink, &TopicFilter::new(["other".to_owned()]), &made), ConfigErrors::default());
    }
}
