//! The template that names a record's target table.
//!
//! A value that is put in for a variable is one name, whatever dots or quotes it holds; only a dot in the template's
//! own text separates schema from table.

use crate::ident::TableName;

/// Parsed form of `table`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableTemplate {
    schema: Vec<Part>,
    table: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Topic,
    Db,
    Schema,
    Table,
}

/// What the variables stand for in one record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variables<'a> {
    pub(crate) topic: &'a str,
    pub(crate) db: &'a str,
    pub(crate) schema: &'a str,
    pub(crate) table: &'a str,
}

impl TableTemplate {
    /// Parses a template; `schema` is used where it names none.
    ///
    /// # Errors
    /// Says which variable is not known, or what form was expected.
    pub fn parse(template: &str, schema: &str) -> Result<Self, String> {
        let mut sides = vec![Vec::new()];
        let mut rest = template;
        while !rest.is_empty() {
            let (text, variable) = match rest.split_once("${") {
                Some((text, behind)) => {
                    let (name, behind) = behind
                        .split_once('}')
                        .ok_or_else(|| format!("expected `}}` to close a variable in `{template}`"))?;
                    rest = behind;
                    (text, Some(variable(name)?))
                }
                None => (std::mem::take(&mut rest), None),
            };
            for (index, piece) in text.split('.').enumerate() {
                if index > 0 {
                    sides.push(Vec::new());
                }
                if let (Some(side), false) = (sides.last_mut(), piece.is_empty()) {
                    side.push(Part::Text(piece.to_owned()));
                }
            }
            if let Some(side) = sides.last_mut() {
                side.extend(variable);
            }
        }
        let wrong = || format!("expected `table` or `schema.table`, got `{template}`");
        if sides.iter().any(Vec::is_empty) || sides.len() > 2 {
            return Err(wrong());
        }
        let table = sides.pop().ok_or_else(wrong)?;
        let schema = sides.pop().unwrap_or_else(|| vec![Part::Text(schema.to_owned())]);
        Ok(Self { schema, table })
    }

    /// Whether a record's `source` block is needed.
    pub(crate) fn needs_source(&self) -> bool {
        self.schema
            .iter()
            .chain(&self.table)
            .any(|part| matches!(part, Part::Db | Part::Schema | Part::Table))
    }

    /// The schema, when it is the same for all records.
    pub(crate) fn fixed_schema(&self) -> Option<&str> {
        fixed(&self.schema)
    }

    /// The table, when it is the same for all records.
    pub(crate) fn fixed_table(&self) -> Option<&str> {
        fixed(&self.table)
    }

    pub(crate) fn table_name(&self, variables: Variables<'_>) -> TableName {
        TableName::new(&fill(&self.schema, variables), &fill(&self.table, variables))
    }
}

fn fixed(parts: &[Part]) -> Option<&str> {
    match parts {
        [Part::Text(text)] => Some(text),
        _ => None,
    }
}

fn variable(name: &str) -> Result<Part, String> {
    match name {
        "topic" => Ok(Part::Topic),
        "source.db" => Ok(Part::Db),
        "source.schema" => Ok(Part::Schema),
        "source.table" => Ok(Part::Table),
        _ => Err(format!(
            "unknown variable `${{{name}}}`; expected `${{topic}}`, `${{source.db}}`, `${{source.schema}}` or \
             `${{source.table}}`"
        )),
    }
}

fn fill(parts: &[Part], variables: Variables<'_>) -> String {
    let mut out = String::new();
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Topic => out.push_str(&variables.topic.replace('.', "_")),
            Part::Db => out.push_str(variables.db),
            Part::Schema => out.push_str(variables.schema),
            Part::Table => out.push_str(variables.table),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(template: &str) -> String {
        let variables =
            Variables { topic: "shop.public.orders", db: "d", schema: "public", table: "or.ders" };
        TableTemplate::parse(template, "main").unwrap().table_name(variables).to_string()
    }

    #[test]
    fn only_the_templates_own_dot_separates() {
        assert_eq!(named("${source.table}"), "\"main\".\"or.ders\"");
        assert_eq!(named("${topic}"), "\"main\".\"shop_public_orders\"");
        assert_eq!(named("lake.${source.schema}_${source.table}"), "\"lake\".\"public_or.ders\"");
        assert_eq!(named("${source.schema}.x_${source.table}"), "\"public\".\"x_or.ders\"");
    }

    #[test]
    fn wrong_templates_say_what_is_expected() {
        for wrong in ["", ".", "a.", "a.b.c", "${source.tabel}", "${topic"] {
            assert!(TableTemplate::parse(wrong, "public").is_err(), "{wrong}");
        }
    }
}
