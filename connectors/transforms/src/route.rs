//! `route`: Kafka Connect's `RegexRouter`, and Debezium's `ContentBasedRouter`, which may name several topics here.

use cel::common::{
    types::{CelList, CelNull, CelString},
    value::Val,
};
use regex::Regex;
use rowstream_api::{ConfigErrors, FieldDoc, FieldKind, RecordError};
use serde::Deserialize;

use crate::{
    TransformPlugin,
    chain::Transform,
    expression::{Expression, RowKnown, type_of},
    filter::{NULL_HANDLING, NullHandling},
    record::Record,
    refused,
    settings::{Replacement, checked_topic, parse, whole_regex},
};

pub(crate) const PLUGIN: TransformPlugin = TransformPlugin {
    name: "route",
    fields: &[
        FieldDoc::optional(
            "regex",
            FieldKind::Text,
            None,
            "A regular expression over the whole name of the topic. Records of topics that it does not match stay there. Goes \
             with `replacement`.",
            "shop\\.public\\.(.*)",
        ),
        FieldDoc::optional(
            "replacement",
            FieldKind::Text,
            None,
            "The new name; `$1` and `${name}` stand for groups of `regex`.",
            "orders.$1",
        ),
        FieldDoc::optional(
            "topic",
            FieldKind::Text,
            None,
            "In place of `regex`: a CEL expression that gives the name of the topic, a list of names (the record goes to each), \
             or null (the record stays where it is). An empty list drops the record. It sees what `filter` sees.",
            "after.priority > 7 ? ['orders.urgent', topic] : [topic]",
        ),
        NULL_HANDLING,
    ],
    build: |settings| {
        let settings: Settings = parse(settings)?;
        let mut errors = ConfigErrors::default();
        let target = match (&settings.regex, &settings.replacement, &settings.topic) {
            (Some(pattern), Some(template), None) => {
                errors.take("regex", whole_regex(pattern)).and_then(|regex| {
                    let replacement = errors.take("replacement", Replacement::parse(template, &regex))?;
                    Some(Target::Pattern(regex, replacement))
                })
            }
            (None, None, Some(text)) => errors
                .take("topic", Expression::compile(text, RowKnown::No))
                .map(Box::new)
                .map(Target::Expression),
            (_, _, _) => {
                errors.push("", "expected either `regex` with `replacement`, or `topic`");
                None
            }
        };
        match target {
            Some(target) => Ok(Box::new(Route { target, null_handling: settings.null_handling })),
            None => Err(errors),
        }
    },
};

#[derive(Deserialize)]
struct Settings {
    regex: Option<String>,
    replacement: Option<String>,
    topic: Option<String>,
    #[serde(default)]
    null_handling: NullHandling,
}

enum Target {
    Pattern(Regex, Replacement),
    Expression(Box<Expression>),
}

struct Route {
    target: Target,
    null_handling: NullHandling,
}

/// What an expression says.
enum Topics {
    Same,
    These(Vec<String>),
}

impl Transform for Route {
    fn apply<'a>(&mut self, mut record: Record<'a>, out: &mut Vec<Record<'a>>) -> Result<(), RecordError> {
        let expression = match &mut self.target {
            Target::Pattern(regex, replacement) => {
                if let Some(name) = replacement.apply(regex, &record.topic) {
                    record.topic = checked_topic(&name, "`replacement`")?;
                }
                out.push(record);
                return Ok(());
            }
            Target::Expression(expression) => expression,
        };
        let topics = match self.null_handling {
            NullHandling::Keep if record.value.is_null() => Topics::Same,
            NullHandling::Drop if record.value.is_null() => Topics::These(Vec::new()),
            NullHandling::Keep | NullHandling::Drop | NullHandling::Evaluate => {
                expression.evaluate(&record, None, topics_of)?
            }
        };
        let Topics::These(names) = topics else {
            out.push(record);
            return Ok(());
        };
        let Some((last, others)) = names.split_last() else { return Ok(()) };
        for name in others {
            out.push(Record { topic: checked_topic(name, "`topic`")?, ..record.clone() });
        }
        record.topic = checked_topic(last, "`topic`")?;
        out.push(record);
        Ok(())
    }
}

fn topics_of(value: &dyn Val) -> Result<Topics, RecordError> {
    let name = |value: &dyn Val| match value.downcast_ref::<CelString>() {
        Some(text) => Ok(text.inner().to_owned()),
        None => {
            let message =
                format!("`topic` gives {}, expected a name, a list of names, or null", type_of(value));
            Err(refused("EXPRESSION_TYPE", message))
        }
    };
    if value.downcast_ref::<CelNull>().is_some() {
        return Ok(Topics::Same);
    }
    if let Some(list) = value.downcast_ref::<CelList>() {
        return list
            .inner()
            .iter()
            .map(|item| name(item.as_ref()))
            .collect::<Result<_, _>>()
            .map(Topics::These);
    }
    name(value).map(|name| Topics::These(vec![name]))
}

#[cfg(test)]
mod tests;
