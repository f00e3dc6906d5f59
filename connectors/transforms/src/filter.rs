//! `filter`: Debezium's `Filter`. Keeps the records that a condition holds for.

use rowstream_api::{ConfigErrors, FieldDoc, FieldKind, RecordError};
use serde::Deserialize;

use crate::{TransformPlugin, chain::Transform, predicate::Cel, record::Record, settings::parse};

pub(crate) const PLUGIN: TransformPlugin = TransformPlugin {
    name: "filter",
    fields: &[
        FieldDoc {
            path: "condition",
            kind: FieldKind::Text,
            required: true,
            default: None,
            doc: "Records for which this CEL expression is true are kept, all others are dropped. It sees `before` and `after` \
                  (the rows of an event; without an envelope `after` is the value and `before` is null), `value`, `op`, \
                  `source`, `key`, `topic`, `headers`, `timestamp`, `is_tombstone`, `topic_matches(\"regex\")` and \
                  `has_header(\"name\")`. Decimals are doubles in it, dates and timestamps are timestamps.",
            example: "op != 'd' && after.region == 'north'",
        },
        NULL_HANDLING,
    ],
    build: |settings| {
        let settings: Settings = parse(settings)?;
        let mut errors = ConfigErrors::default();
        let condition = errors.take("condition", Cel::parse(&settings.condition));
        match condition {
            Some(condition) => Ok(Box::new(Filter { condition, null_handling: settings.null_handling })),
            None => Err(errors),
        }
    },
};

/// For steps that evaluate an expression on every record.
pub(crate) const NULL_HANDLING: FieldDoc = FieldDoc::optional(
    "null_handling",
    FieldKind::Choice(&["keep", "drop", "evaluate"]),
    Some("keep"),
    "What becomes of tombstones, which have no value to look at: `keep` lets them pass, `drop` drops them, `evaluate` asks the \
     expression, for which `value`, `before` and `after` are null then.",
    "drop",
);

/// What becomes of tombstones: Debezium's `null.handling.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum NullHandling {
    #[default]
    Keep,
    Drop,
    Evaluate,
}

#[derive(Deserialize)]
struct Settings {
    condition: String,
    #[serde(default)]
    null_handling: NullHandling,
}

struct Filter {
    condition: Cel,
    null_handling: NullHandling,
}

impl Transform for Filter {
    fn apply<'a>(&mut self, record: Record<'a>, out: &mut Vec<Record<'a>>) -> Result<(), RecordError> {
        let keep = match self.null_handling {
            NullHandling::Keep if record.value.is_null() => true,
            NullHandling::Drop if record.value.is_null() => false,
            NullHandling::Keep | NullHandling::Drop | NullHandling::Evaluate => {
                self.condition.evaluate(&record)?
            }
        };
        if keep {
            out.push(record);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
