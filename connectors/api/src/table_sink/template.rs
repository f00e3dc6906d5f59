//! The template that names a record's target table.
//!
//! A value that is put in for a variable is one name, whatever dots or quotes it holds; only a dot in the template's
//! own text separates schema from table.

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
pub struct Variables<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Source database.
    pub db: &'a str,
    /// Source schema.
    pub schema: &'a str,
    /// Source table.
    pub table: &'a str,
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
    #[must_use]
    pub fn needs_source(&self) -> bool {
        self.schema
            .iter()
            .chain(&self.table)
            .any(|part| matches!(part, Part::Db | Part::Schema | Part::Table))
    }

    /// The schema, when it is the same for all records.
    #[must_use]
    pub fn fixed_schema(&self) -> Option<&str> {
        fixed(&self.schema)
    }

    /// The table, when it is the same for all records.
    #[must_use]
    pub fn fixed_table(&self) -> Option<&str> {
        fixed(&self.table)
    }

    /// Schema (or database) and table of a record.
    #[must_use]
    pub fn names(&self, variables: Variables<'_>) -> (String, String) {
        (fill(&self.schema, variables), fill(&self.table, variables))
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

    fn named(template: &str) -> (String, String) {
        let variables =
            Variables { topic: "shop.public.orders", db: "d", schema: "public", table: "or.ders" };
        TableTemplate::parse(template, "main").unwrap().names(variables)
    }

    #[test]
    fn only_the_templates_own_dot_separates() {
        let pair = |schema: &str, table: &str| (schema.to_owned(), table.to_owned());
        assert_eq!(named("${source.table}"), pair("main", "or.ders"));
        assert_eq!(named("${topic}"), pair("main", "shop_public_orders"));
        assert_eq!(named("lake.${source.schema}_${source.table}"), pair("lake", "public_or.ders"));
        assert_eq!(named("${source.schema}.x_${source.table}"), pair("public", "x_or.ders"));
    }

    #[test]
    fn wrong_templates_say_what_is_expected() {
        for wrong in ["", ".", "a.", "a.b.c", "${source.tabel}", "${topic"] {
            assert!(TableTemplate::parse(wrong, "public").is_err(), "{wrong}");
        }
    }
}
