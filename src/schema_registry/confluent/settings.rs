//! The `schema_registry` block of worker.yaml: what was typed, and what is understood of it.

use std::{path::Path, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::header::HeaderValue;
use rowstream_api::{ConfigErrors, Secret, units};
use rowstream_http::{Connector, Target, Trust, TrustConfig};
use serde::Deserialize;

use crate::schema_registry::SubjectStrategy;

/// `schema_registry`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct SchemaRegistryConfig {
    /// Who has the schemas.
    #[serde(rename = "type")]
    pub kind: RegistryKind,
    /// Addresses of an external registry.
    pub url: Vec<String>,
    /// Where the built-in registry keeps its schemas on Kafka.
    pub topic: String,
    /// How subjects are named.
    pub subject_strategy: SubjectStrategy,
    /// Whether unknown schemas are registered.
    pub auto_register: bool,
    /// Longest wait for one answer.
    #[serde(deserialize_with = "units::duration")]
    pub timeout: Duration,
    /// Who we are.
    pub auth: AuthConfig,
    /// Whom we believe.
    pub tls: TrustConfig,
}

/// Who has the schemas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistryKind {
    /// This process.
    #[default]
    Builtin,
    /// A server with Confluent's API.
    Confluent,
}

/// `schema_registry.auth`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    /// HTTP basic.
    pub user: Option<String>,
    /// HTTP basic.
    pub password: Option<Secret>,
    /// HTTP bearer.
    pub token: Option<Secret>,
}

impl Default for SchemaRegistryConfig {
    fn default() -> Self {
        Self {
            kind: RegistryKind::Builtin,
            url: Vec::new(),
            topic: "_schemas".to_owned(),
            subject_strategy: SubjectStrategy::Topic,
            auto_register: true,
            timeout: Duration::from_secs(10),
            auth: AuthConfig::default(),
            tls: TrustConfig::default(),
        }
    }
}

/// What an external registry's settings mean.
pub struct Plan {
    pub(super) servers: Vec<Connector>,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) auto_register: bool,
    pub(super) timeout: Duration,
}

/// Longer waits would only hide that the registry is down.
const TIMEOUT_MAX: Duration = Duration::from_mins(2);

impl SchemaRegistryConfig {
    /// Makes paths relative to `base`, the directory of the file they stand in.
    pub(crate) fn relative_to(&mut self, base: &Path) {
        let TrustConfig { ca_file, cert_file, key_file } = &mut self.tls;
        for path in [ca_file, cert_file, key_file].into_iter().flatten() {
            *path = base.join(&*path).to_string_lossy().into_owned();
        }
    }

    /// Checks everything; `None` for the built-in registry.
    ///
    /// # Errors
    /// Every problem at once, files that can't be read among them.
    pub fn plan(&self) -> Result<Option<Plan>, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        if self.kind == RegistryKind::Builtin {
            self.refuse_unused(&mut errors);
            return errors.into_result().map(|()| None);
        }
        if self.url.is_empty() {
            errors.push(
                "schema_registry.url",
                "is required with `type: confluent`, e.g. `https://registry.example.com:8081`",
            );
        }
        if self.timeout.is_zero() || self.timeout > TIMEOUT_MAX {
            errors.push("schema_registry.timeout", "must be longer than zero and at most 2m");
        }
        let trust = self.tls.read("schema_registry.tls", &mut errors);
        let servers = self.servers(&trust, &mut errors);
        let authorization = errors.take("schema_registry.auth", self.auth.header()).flatten();
        errors.into_result()?;
        let (auto_register, timeout) = (self.auto_register, self.timeout);
        Ok(Some(Plan { servers, authorization, auto_register, timeout }))
    }

    /// A setting that does nothing is a mistake that its author would like to hear of.
    fn refuse_unused(&self, errors: &mut ConfigErrors) {
        let AuthConfig { user, password, token } = &self.auth;
        for (field, given) in [
            ("url", !self.url.is_empty()),
            ("auto_register", !self.auto_register),
            ("auth", user.is_some() || password.is_some() || token.is_some()),
            ("tls", !self.tls.is_empty()),
        ] {
            if given {
                errors.push(
                    format!("schema_registry.{field}"),
                    "has no effect with `schema_registry.type: builtin`; set the type to `confluent`, or remove this",
                );
            }
        }
    }

    fn servers(&self, trust: &Trust, errors: &mut ConfigErrors) -> Vec<Connector> {
        let mut servers = Vec::new();
        for (index, url) in self.url.iter().enumerate() {
            let field = format!("schema_registry.url[{index}]");
            let example = "https://registry.example.com:8081";
            let parsed = Target::parse(url, example, "`schema_registry.auth`").and_then(|target| {
                if target.path.contains('?') {
                    return Err("must not hold a query".to_owned());
                }
                Connector::new(target, self.timeout, trust).map_err(|e| e.to_string())
            });
            servers.extend(errors.take(&field, parsed));
        }
        servers
    }
}

impl AuthConfig {
    /// The `authorization` header.
    fn header(&self) -> Result<Option<HeaderValue>, String> {
        let text = match (&self.user, &self.password, &self.token) {
            (None, None, None) => return Ok(None),
            (Some(user), Some(_), None) if user.contains(':') => {
                return Err("the `user` of HTTP basic authentication can't hold a `:`".to_owned());
            }
            (Some(user), Some(password), None) => {
                format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.reveal())))
            }
            (None, None, Some(token)) => format!("Bearer {}", token.reveal()),
            (Some(_), None, None) | (None, Some(_), None) => {
                return Err("`user` and `password` belong together: give both or neither".to_owned());
            }
            (_, _, Some(_)) => return Err("give either `user` and `password`, or `token`".to_owned()),
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            "the `token` holds characters that HTTP does not allow, perhaps a line break at its end"
                .to_owned()
        })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn problems(settings: Value) -> String {
        let settings: SchemaRegistryConfig = serde_json::from_value(settings).unwrap();
        settings.plan().err().map(|errors| errors.to_string()).unwrap_or_default()
    }

    fn header(auth: Value) -> Result<Option<String>, String> {
        let auth: AuthConfig = serde_json::from_value(auth).unwrap();
        Ok(auth.header()?.map(|value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let text = problems(json!({
            "type": "confluent", "timeout": "0s",
            "url": ["ftp://registry", "https://user:pw@registry", "http://registry?x=1", "registry:8081"],
            "auth": { "user": "u" },
            "tls": { "ca_file": "/nowhere/ca.pem", "cert_file": "/nowhere/cert.pem" },
        }));
        for expected in [
            "schema_registry.timeout: must be longer than zero and at most 2m",
            "schema_registry.url[0]: expected a URL such as `https://registry.example.com:8081`; the scheme `ftp` is",
            "schema_registry.url[1]: must not hold a user or password; put them into `schema_registry.auth`",
            "schema_registry.url[2]: must not hold a query",
            "schema_registry.url[3]: expected a URL such as",
            "schema_registry.auth: `user` and `password` belong together",
            "schema_registry.tls.ca_file: can't read certificates from `/nowhere/ca.pem`: No such file",
            "schema_registry.tls.key_file: is required with `cert_file`",
        ] {
            assert!(text.contains(expected), "missing {expected:?} in:\n{text}");
        }
        assert!(!text.contains("pw"), "{text}");
        let missing = problems(json!({ "type": "confluent" }));
        assert!(missing.contains("schema_registry.url: is required with `type: confluent`"), "{missing}");
    }

    #[test]
    fn what_the_built_in_registry_does_not_use_is_refused() {
        let text =
            problems(json!({ "url": ["http://registry"], "auth": { "token": "t" }, "auto_register": false }));
        for field in ["url", "auth", "auto_register"] {
            assert!(text.contains(&format!("schema_registry.{field}: has no effect with")), "{text}");
        }
        assert_eq!(problems(json!({ "subject_strategy": "record" })), "");
    }

    #[test]
    fn files_that_hold_no_pem_are_named_and_not_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0!!!\n-----END PRIVATE KEY-----\n";
        std::fs::write(file.path(), key).unwrap();
        let text = problems(json!({
            "type": "confluent", "url": ["https://registry"],
            "tls": { "ca_file": file.path(), "cert_file": file.path(), "key_file": file.path() },
        }));
        for field in ["ca_file", "cert_file"] {
            assert!(text.contains(&format!("schema_registry.tls.{field}: ")), "{text}");
        }
        assert!(!text.contains("c2Vj") && !format!("{text:?}").contains("99, 50"), "{text}");
    }

    #[test]
    fn the_login_is_basic_or_bearer() {
        assert_eq!(header(json!({})), Ok(None));
        let basic = header(json!({ "user": "Aladdin", "password": "open sesame" }));
        assert_eq!(basic.unwrap().unwrap(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(header(json!({ "token": "abc" })).unwrap().unwrap(), "Bearer abc");
        for wrong in [
            json!({ "user": "a:b", "password": "p" }),
            json!({ "password": "p" }),
            json!({ "user": "u", "password": "p", "token": "t" }),
            json!({ "token": "a\nb" }),
        ] {
            assert!(header(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
