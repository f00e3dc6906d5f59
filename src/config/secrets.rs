//! `${env:NAME}` and `${file:/path}` inside configuration texts.
//!
//! A document keeps its placeholders: they are resolved only on the way into a plan, so what the API shows, what is
//! stored and what is compared for changes never holds a secret. Resolution happens at every start of a connector, so a
//! rotated file is picked up by a restart.

use rowstream_api::ConfigErrors;
use serde_json::{Map, Value};

/// Where `${env:…}` looks; a function, so that tests need not touch the process's environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's environment.
#[expect(clippy::disallowed_methods, reason = "this is the one door to the environment that `config` owns")]
#[must_use]
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A copy of `document` with every placeholder replaced. Problems are reported per field, by dotted path.
#[must_use]
pub fn resolve(
    document: &Map<String, Value>,
    environment: Environment<'_>,
    errors: &mut ConfigErrors,
) -> Map<String, Value> {
    document.iter().map(|(k, v)| (k.clone(), resolve_value(k, v, environment, errors))).collect()
}

fn resolve_value(
    path: &str,
    value: &Value,
    environment: Environment<'_>,
    errors: &mut ConfigErrors,
) -> Value {
    match value {
        Value::String(text) => match resolve_text(text, environment) {
            Ok(text) => Value::String(text),
            Err(problem) => {
                errors.push(path, problem);
                Value::String(String::new())
            }
        },
        Value::Array(items) => Value::Array(
            items
                .iter()
                .enumerate()
                .map(|(i, v)| resolve_value(&format!("{path}[{i}]"), v, environment, errors))
                .collect(),
        ),
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(k, v)| (k.clone(), resolve_value(&format!("{path}.{k}"), v, environment, errors)))
                .collect(),
        ),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// Replaces the placeholders of one text. `${source.table}` and other names without a `:` are left for the connector.
///
/// # Errors
/// Names the variable or file that is missing, never what it would have held.
pub fn resolve_text(text: &str, environment: Environment<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        let Some((inside, behind)) = after.split_once('}') else {
            return Err("has `${` without a closing `}`".to_owned());
        };
        match inside.split_once(':') {
            Some(("env", name)) => {
                out.push_str(&environment(name).ok_or_else(|| {
                    format!("environment variable `{name}` is not set; set it for the daemon")
                })?)
            }
            Some(("file", path)) => {
                let content = std::fs::read_to_string(path)
                    .map_err(|e| format!("can't read the secret file `{path}`: {e}"))?;
                out.push_str(content.trim_end_matches(['\n', '\r']));
            }
            Some((provider, _)) => {
                return Err(format!(
                    "unknown provider `{provider}`: expected `${{env:NAME}}` or `${{file:/path}}`"
                ));
            }
            None => {
                out.push_str("${");
                out.push_str(inside);
                out.push('}');
            }
        }
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        (name == "PW").then(|| "s3cret".to_owned())
    }

    #[test]
    fn placeholders_are_replaced_and_others_left_alone() {
        assert_eq!(resolve_text("a${env:PW}b", &env).as_deref(), Ok("as3cretb"));
        assert_eq!(resolve_text("${source.table}", &env).as_deref(), Ok("${source.table}"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "top\n").unwrap();
        assert_eq!(resolve_text(&format!("${{file:{}}}", file.path().display()), &env).as_deref(), Ok("top"));
    }

    #[test]
    fn a_missing_secret_names_itself_by_field() {
        let mut errors = ConfigErrors::default();
        let document = serde_json::json!({"connection": {"password": "${env:NOPE}", "user": "${vault:x}"}});
        let Value::Object(map) = document else { unreachable!() };
        let _resolved = resolve(&map, &env, &mut errors);
        let text = errors.to_string();
        assert!(text.contains("connection.password: environment variable `NOPE` is not set"), "{text}");
        assert!(text.contains("connection.user: unknown provider `vault`"), "{text}");
    }
}
