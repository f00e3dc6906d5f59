//! Confluent's Schema Registry REST API over the built-in registry, for any client that speaks it.
//!
//! Paths, bodies and error codes are Confluent's, so that its clients can't tell the difference. What is not there
//! is refused with a sentence: schema types other than AVRO, references to other subjects, import mode, contexts.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, Query, State, rejection::PathRejection},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    BuiltinRegistry, Level, Refusal, Schemas,
    builtin::{Deleted, Deletion, VersionChoice},
};

/// The content type of every answer.
pub const CONTENT: &str = "application/vnd.schemaregistry.v1+json";

type Registry = State<Arc<BuiltinRegistry>>;
type Subject = Result<Path<String>, PathRejection>;
type SubjectAndVersion = Result<Path<(String, String)>, PathRejection>;
type Answer = Result<Reply, Refusal>;

/// All routes, from the root: `/schemas`, `/subjects`, `/compatibility`, `/config`, `/mode`.
pub fn router(registry: Arc<BuiltinRegistry>) -> Router {
    Router::new()
        .route("/schemas/types", get(types))
        .route("/schemas/ids/{id}", get(schema_by_id))
        .route("/schemas/ids/{id}/schema", get(bare_schema_by_id))
        .route("/schemas/ids/{id}/versions", get(versions_of_id))
        .route("/schemas/ids/{id}/subjects", get(subjects_of_id))
        .route("/subjects", get(subjects))
        .route("/subjects/{subject}", post(look_up).delete(delete_subject))
        .route("/subjects/{subject}/versions", get(versions).post(register))
        .route("/subjects/{subject}/versions/{version}", get(version).delete(delete_version))
        .route("/subjects/{subject}/versions/{version}/schema", get(bare_version))
        .route("/compatibility/subjects/{subject}/versions", post(compatible_with_all))
        .route("/compatibility/subjects/{subject}/versions/{version}", post(compatible_with_one))
        .route("/config", get(global_level).put(set_global_level).delete(reset_global_level))
        .route("/config/{subject}", get(level).put(set_level).delete(remove_level))
        .route("/mode", get(global_mode))
        .route("/mode/{subject}", get(mode))
        .with_state(registry)
}

/// The routes of whoever has the schemas. An external registry is not passed through: its credentials are ours, and whoever can
/// reach this server is not us.
pub fn router_of(schemas: &Schemas) -> Router {
    match schemas {
        Schemas::Builtin(registry) => router(Arc::clone(registry)),
        Schemas::External(origins) => {
            let origins: Arc<str> = origins.as_str().into();
            let elsewhere =
                move || std::future::ready(Refusal::Elsewhere(origins.to_string()).into_response());
            ["/schemas", "/subjects", "/compatibility", "/config", "/mode"].into_iter().fold(
                Router::new(),
                |router, path| {
                    let below = format!("{path}/{{*below}}");
                    router.route(path, any(elsewhere.clone())).route(&below, any(elsewhere.clone()))
                },
            )
        }
    }
}

/// A body with status 200.
struct Reply(String);

impl From<Value> for Reply {
    fn from(value: Value) -> Self {
        Self(value.to_string())
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, CONTENT)], self.0).into_response()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = self.error_code();
        // Confluent's codes are the HTTP status, or the status and two more digits.
        let status = u16::try_from(if code > 999 { code / 100 } else { code }).ok();
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        let body = json!({ "error_code": code, "message": self.to_string() });
        (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Reply::from(body)).into_response()
    }
}

impl From<PathRejection> for Refusal {
    fn from(rejection: PathRejection) -> Self {
        Self::BadRequest(format!("the path cannot be read: {}", rejection.body_text()))
    }
}

/// Query parameters; all of Confluent's are optional, unknown ones are ignored as it does.
struct Flags(HashMap<String, String>);

impl Flags {
    fn is(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }
    fn deleted(&self) -> Deleted {
        match (self.is("deletedOnly"), self.is("deleted")) {
            (true, _) => Deleted::Only,
            (false, true) => Deleted::Included,
            (false, false) => Deleted::Hidden,
        }
    }
    fn deletion(&self) -> Deletion {
        if self.is("permanent") { Deletion::Permanent } else { Deletion::Soft }
    }
}

type Asked = Query<HashMap<String, String>>;

/// The body of registration, lookup and compatibility checks.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SchemaBody {
    schema: Option<String>,
    schema_type: Option<String>,
    references: Option<Vec<Value>>,
    id: Option<i64>,
    version: Option<i64>,
}

impl SchemaBody {
    fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let body: Self = serde_json::from_slice(body).map_err(unreadable)?;
        if let Some(other) = body.schema_type.as_deref().filter(|t| !t.is_empty() && *t != "AVRO") {
            return Err(Refusal::InvalidSchema(format!(
                "schemaType {other} is not supported: this registry holds AVRO schemas only"
            )));
        }
        if body.references.as_ref().is_some_and(|references| !references.is_empty()) {
            return Err(Refusal::InvalidSchema(
                "references to other subjects are not supported: put the referenced types into the schema itself"
                    .into(),
            ));
        }
        Ok(body)
    }
    fn text(&self) -> Result<&str, Refusal> {
        let text = self.schema.as_deref().filter(|text| !text.is_empty());
        text.ok_or_else(|| Refusal::InvalidSchema("the request has no `schema`".into()))
    }
    fn imports(&self) -> bool {
        self.id.is_some_and(|id| id > 0) || self.version.is_some_and(|version| version > 0)
    }
}

fn unreadable(error: serde_json::Error) -> Refusal {
    Refusal::BadRequest(format!("the request's body is not the JSON that was expected: {error}"))
}

fn choice(version: &str) -> Result<VersionChoice, Refusal> {
    let invalid = || Refusal::InvalidVersion(version.to_owned());
    match version {
        "latest" | "-1" => Ok(VersionChoice::Latest),
        number => {
            let number: i32 = number.parse().map_err(|_| invalid())?;
            let number = u32::try_from(number).ok().filter(|number| *number > 0);
            number.map(VersionChoice::Exactly).ok_or_else(invalid)
        }
    }
}

fn schema_id(path: Subject) -> Result<u32, Refusal> {
    let Path(text) = path?;
    text.parse().map_err(|_| Refusal::BadRequest(format!("schema id `{text}` is no number from 1 to 2^31-1")))
}

// `/schemas`

async fn types() -> Reply {
    json!(["AVRO"]).into()
}

async fn schema_by_id(State(registry): Registry, id: Subject) -> Answer {
    let schema = registry.schema_text(schema_id(id)?)?;
    Ok(json!({ "schema": schema.as_ref() }).into())
}

async fn bare_schema_by_id(State(registry): Registry, id: Subject) -> Answer {
    Ok(Reply(registry.schema_text(schema_id(id)?)?.to_string()))
}

async fn versions_of_id(State(registry): Registry, id: Subject, Query(asked): Asked) -> Answer {
    let uses = registry.uses(schema_id(id)?, Flags(asked).deleted())?;
    let uses = uses.into_iter().map(|(subject, version)| json!({ "subject": subject, "version": version }));
    Ok(Value::from_iter(uses).into())
}

async fn subjects_of_id(State(registry): Registry, id: Subject, Query(asked): Asked) -> Answer {
    let mut names: Vec<_> = registry
        .uses(schema_id(id)?, Flags(asked).deleted())?
        .into_iter()
        .map(|(subject, _)| subject)
        .collect();
    names.dedup();
    Ok(json!(names).into())
}

// `/subjects`

async fn subjects(State(registry): Registry, Query(asked): Asked) -> Answer {
    let prefix = asked.get("subjectPrefix").cloned().unwrap_or_default();
    Ok(json!(registry.subjects(&prefix, Flags(asked).deleted())).into())
}

async fn look_up(State(registry): Registry, subject: Subject, Query(asked): Asked, body: Bytes) -> Answer {
    let Path(subject) = subject?;
    let body = SchemaBody::parse(&body)?;
    let found = registry.look_up(&subject, body.text()?, Flags(asked).deleted())?;
    Ok(json!(found).into())
}

async fn delete_subject(State(registry): Registry, subject: Subject, Query(asked): Asked) -> Answer {
    let Path(subject) = subject?;
    Ok(json!(registry.delete_subject(&subject, Flags(asked).deletion()).await?).into())
}

async fn versions(State(registry): Registry, subject: Subject, Query(asked): Asked) -> Answer {
    let Path(subject) = subject?;
    Ok(json!(registry.versions(&subject, Flags(asked).deleted())?).into())
}

async fn register(State(registry): Registry, subject: Subject, body: Bytes) -> Answer {
    let Path(subject) = subject?;
    let body = SchemaBody::parse(&body)?;
    if body.imports() {
        return Err(Refusal::NotImporting(subject));
    }
    let id = registry.register_version(&subject, body.text()?).await?;
    Ok(json!({ "id": id }).into())
}

async fn version(State(registry): Registry, path: SubjectAndVersion, Query(asked): Asked) -> Answer {
    let Path((subject, version)) = path?;
    Ok(json!(registry.version(&subject, choice(&version)?, Flags(asked).deleted())?).into())
}

async fn bare_version(State(registry): Registry, path: SubjectAndVersion, Query(asked): Asked) -> Answer {
    let Path((subject, version)) = path?;
    let found = registry.version(&subject, choice(&version)?, Flags(asked).deleted())?;
    Ok(Reply(found.schema.to_string()))
}

async fn delete_version(State(registry): Registry, path: SubjectAndVersion, Query(asked): Asked) -> Answer {
    let Path((subject, version)) = path?;
    let deleted = registry.delete_version(&subject, choice(&version)?, Flags(asked).deletion()).await?;
    Ok(json!(deleted).into())
}

// `/compatibility`

async fn compatible_with_one(
    State(registry): Registry,
    path: SubjectAndVersion,
    Query(asked): Asked,
    body: Bytes,
) -> Answer {
    let Path((subject, version)) = path?;
    compatible(&registry, &subject, Some(choice(&version)?), (&Flags(asked), &body))
}

async fn compatible_with_all(
    State(registry): Registry,
    subject: Subject,
    Query(asked): Asked,
    body: Bytes,
) -> Answer {
    let Path(subject) = subject?;
    compatible(&registry, &subject, None, (&Flags(asked), &body))
}

fn compatible(
    registry: &BuiltinRegistry,
    subject: &str,
    against: Option<VersionChoice>,
    (flags, body): (&Flags, &[u8]),
) -> Answer {
    let body = SchemaBody::parse(body)?;
    let clash = registry.clash(subject, against, body.text()?)?;
    let mut answer = json!({ "is_compatible": clash.is_none() });
    if let (true, Some(members)) = (flags.is("verbose"), answer.as_object_mut()) {
        let reasons: Vec<_> = clash.into_iter().map(|found| found.reason).collect();
        members.insert("messages".into(), json!(reasons));
    }
    Ok(answer.into())
}

// `/config` and `/mode`

fn level_body(body: &[u8]) -> Result<Level, Refusal> {
    #[derive(Deserialize)]
    struct LevelBody {
        compatibility: String,
    }
    let body: LevelBody = serde_json::from_slice(body).map_err(unreadable)?;
    Level::parse(&body.compatibility)
}

async fn global_level(State(registry): Registry) -> Answer {
    Ok(json!({ "compatibilityLevel": registry.level(None)?.as_str() }).into())
}

async fn set_global_level(State(registry): Registry, body: Bytes) -> Answer {
    let level = level_body(&body)?;
    registry.set_level(None, level).await?;
    Ok(json!({ "compatibility": level.as_str() }).into())
}

async fn reset_global_level(State(registry): Registry) -> Answer {
    Ok(json!({ "compatibilityLevel": registry.remove_level(None).await?.as_str() }).into())
}

async fn level(State(registry): Registry, subject: Subject, Query(asked): Asked) -> Answer {
    let Path(subject) = subject?;
    let level = match registry.level(Some(&subject)) {
        Err(Refusal::NoSubjectLevel(_)) if Flags(asked).is("defaultToGlobal") => registry.level(None),
        own => own,
    };
    Ok(json!({ "compatibilityLevel": level?.as_str() }).into())
}

async fn set_level(State(registry): Registry, subject: Subject, body: Bytes) -> Answer {
    let Path(subject) = subject?;
    let level = level_body(&body)?;
    registry.set_level(Some(&subject), level).await?;
    Ok(json!({ "compatibility": level.as_str() }).into())
}

async fn remove_level(State(registry): Registry, subject: Subject) -> Answer {
    let Path(subject) = subject?;
    Ok(json!({ "compatibilityLevel": registry.remove_level(Some(&subject)).await?.as_str() }).into())
}

async fn global_mode() -> Reply {
    json!({ "mode": "READWRITE" }).into()
}

async fn mode(subject: Subject, Query(asked): Asked) -> Answer {
    let Path(subject) = subject?;
    if Flags(asked).is("defaultToGlobal") {
        Ok(global_mode().await)
    } else {
        Err(Refusal::NoSubjectMode(subject))
    }
}
