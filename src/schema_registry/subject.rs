//! Under which subject a schema is registered: Confluent's three strategies.
//!
//! | strategy | Confluent's | subject |
//! |---|---|---|
//! | `topic` | `TopicNameStrategy` | `<topic>-key`, `<topic>-value` |
//! | `record` | `RecordNameStrategy` | `<full name of the record>` |
//! | `topic_record` | `TopicRecordNameStrategy` | `<topic>-<full name of the record>` |
//!
//! Consumers need not know it: they find a schema by the id in front of each record.

use serde::Deserialize;

/// Which name a subject gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectStrategy {
    /// One subject for keys and one for values of a topic; Confluent's default and ours.
    #[default]
    Topic,
    /// One subject per type of record, whatever the topic.
    Record,
    /// One subject per type of record in a topic.
    TopicRecord,
}

/// Key or value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Key.
    Key,
    /// Value.
    Value,
}

impl SubjectStrategy {
    /// The words of the configuration.
    pub const WORDS: &'static [&'static str] = &["topic", "record", "topic_record"];

    /// The subject of a schema (Avro JSON) that is the key's or the value's of a topic.
    ///
    /// # Errors
    /// The schema has no name, and the strategy needs one.
    pub fn subject(self, topic: &str, part: Part, schema: &str) -> Result<String, String> {
        let record = |word: &str| {
            full_name(schema).ok_or_else(|| {
                format!(
                    "`subject_strategy: {word}` names a subject after its record, and the {} of topic `{topic}` is no \
                     record; use `topic`",
                    part.word()
                )
            })
        };
        match self {
            Self::Topic => Ok(format!("{topic}-{}", part.word())),
            Self::Record => record("record"),
            Self::TopicRecord => Ok(format!("{topic}-{}", record("topic_record")?)),
        }
    }
}

impl Part {
    fn word(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Value => "value",
        }
    }
}

/// The full name of a record, enum or fixed.
fn full_name(schema: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Head {
        name: String,
        namespace: Option<String>,
    }
    let head: Head = serde_json::from_str(schema).ok()?;
    match head.namespace {
        Some(namespace) if !namespace.is_empty() && !head.name.contains('.') => {
            Some(format!("{namespace}.{}", head.name))
        }
        Some(_) | None => Some(head.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = r#"{"type":"record","name":"Key","namespace":"shop.public.orders","fields":[]}"#;

    #[test]
    fn the_three_strategies_name_as_confluents() {
        let subject = |strategy: SubjectStrategy, part| strategy.subject("shop.public.orders", part, KEY);
        assert_eq!(subject(SubjectStrategy::Topic, Part::Key).unwrap(), "shop.public.orders-key");
        assert_eq!(subject(SubjectStrategy::Topic, Part::Value).unwrap(), "shop.public.orders-value");
        assert_eq!(subject(SubjectStrategy::Record, Part::Key).unwrap(), "shop.public.orders.Key");
        let both = subject(SubjectStrategy::TopicRecord, Part::Key).unwrap();
        assert_eq!(both, "shop.public.orders-shop.public.orders.Key");
        for (word, strategy) in SubjectStrategy::WORDS.iter().zip([
            SubjectStrategy::Topic,
            SubjectStrategy::Record,
            SubjectStrategy::TopicRecord,
        ]) {
            assert_eq!(serde_json::from_str::<SubjectStrategy>(&format!("{word:?}")).unwrap(), strategy);
        }
    }

    #[test]
    fn a_schema_without_a_name_needs_the_topic() {
        let named = r#"{"type":"record","name":"a.b.C","namespace":"ignored","fields":[]}"#;
        assert_eq!(SubjectStrategy::Record.subject("t", Part::Value, named).unwrap(), "a.b.C");
        assert_eq!(SubjectStrategy::Topic.subject("t", Part::Value, "\"string\"").unwrap(), "t-value");
        let error = SubjectStrategy::Record.subject("t", Part::Key, "\"string\"").unwrap_err();
        assert!(error.contains("the key of topic `t` is no record; use `topic`"), "{error}");
    }
}
