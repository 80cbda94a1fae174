//! The endpoints of a user. Each belongs to one account, and nobody else sees it.

use crate::message::Backlog;
use crate::receiver_url::{self, Configuration};
use crate::retention;
use crate::rights::Scope;
use crate::secret;
use crate::stored::word;
use crate::time::seconds_after;
use crate::topic::{Topics, WebhookTopic};
use serde::{Deserialize, Serialize};
use wharf_sdk::prelude::*;
use wharf_sdk::sql::{self, FromRow, params};

/// The most endpoints of one account.
const MAX_ENDPOINTS: i64 = 10;

/// How long the earlier secret signs after a rotation, in seconds.
const OVERLAP: i64 = 24 * 60 * 60;

const COLUMNS: &str =
    "id, url, description, topics, scope, active, disabled_reason, failing_since, previous_secret_until,
    created_at";

#[derive(Deserialize, JsonSchema)]
pub(crate) struct EndpointCreate {
    /// Begins with `https://`.
    #[schemars(length(min = 1, max = 2048))]
    url: String,
    #[schemars(length(min = 1, max = 6))]
    topics: Vec<WebhookTopic>,
    #[serde(default)]
    #[schemars(length(max = 255))]
    description: Option<String>,
    /// `own`: events about the owner of the endpoint. `all`: events about all accounts, while the owner is a superuser.
    /// The default is `all` for a superuser and `own` for others.
    #[serde(default)]
    scope: Option<Scope>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct EndpointUpdate {
    #[schemars(length(min = 1, max = 2048))]
    url: Field<String>,
    #[schemars(length(min = 1, max = 6))]
    topics: Field<Vec<WebhookTopic>>,
    #[schemars(length(max = 255))]
    description: Field<Option<String>>,
    scope: Field<Scope>,
    /// An endpoint that is not active gets no messages, and those that wait end. `true` enables one that was disabled.
    active: Field<bool>,
}

#[derive(Serialize, JsonSchema, FromRow)]
pub(crate) struct EndpointPublic {
    id: Uuid,
    url: String,
    description: Option<String>,
    topics: Topics,
    scope: Scope,
    active: bool,
    /// Why the host disabled it, if it did.
    disabled_reason: Option<String>,
    /// Since when every attempt has failed.
    failing_since: Option<Timestamp>,
    /// The earlier secret signs too until this time.
    previous_secret_until: Option<Timestamp>,
    created_at: Timestamp,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct EndpointsPublic {
    data: Vec<EndpointPublic>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct EndpointCreated {
    endpoint: EndpointPublic,
    /// `whsec_…`. It is shown only here.
    secret: String,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct SecretRotated {
    /// `whsec_…`. It is shown only here.
    secret: String,
    /// The earlier secret signs too until this time.
    previous_secret_until: Timestamp,
}

/// Read Endpoints
///
/// The caller's own endpoints, oldest first.
#[get("/")]
pub(crate) fn read_endpoints(caller: Caller) -> Result<Json<EndpointsPublic>> {
    let sql = format!("SELECT {COLUMNS} FROM endpoint WHERE owner_id = $1 ORDER BY created_at, id");
    Ok(Json(EndpointsPublic { data: sql::query(&sql, params![caller.id])? }))
}

/// Create Endpoint
///
/// The response has the secret, with which the receiver checks signatures. Nothing shows it again.
#[post("/", status = 201)]
pub(crate) fn create_endpoint(
    caller: Caller,
    Settings(settings): Settings<Configuration>,
    Json(new): Json<EndpointCreate>,
) -> Result<Json<EndpointCreated>> {
    if caller.email.is_empty() {
        return Err(Problem::forbidden(
            "needs_account",
            "An endpoint belongs to an account, and this API key to nobody",
        ));
    }
    receiver_url::check(&new.url, &settings)?;
    check_scope(new.scope, &caller)?;
    let endpoint = EndpointPublic {
        id: Uuid::new_v4(),
        url: new.url,
        description: new.description,
        topics: Topics(new.topics),
        scope: new.scope.unwrap_or(if caller.superuser { Scope::All } else { Scope::Own }),
        active: true,
        disabled_reason: None,
        failing_since: None,
        previous_secret_until: None,
        created_at: Timestamp::now(),
    };
    let secret = secret::generate()?;
    sql::transaction(|tx| {
        let count: i64 = tx.query_value("SELECT COUNT(*) FROM endpoint WHERE owner_id = $1", params![caller.id])?;
        if count >= MAX_ENDPOINTS {
            let detail = format!("An account has at most {MAX_ENDPOINTS} endpoints");
            return Err(Problem::conflict("too_many_endpoints", detail));
        }
        tx.execute(
            "INSERT INTO endpoint
                (id, owner_id, url, description, topics, scope, active, secret, failures, created_at)
            VALUES ($1, $2, $3, $4, $5, $6, TRUE, $7, 0, $8)",
            params![
                endpoint.id,
                caller.id,
                &endpoint.url,
                endpoint.description.as_deref(),
                endpoint.topics.text(),
                word(endpoint.scope),
                &secret,
                endpoint.created_at
            ],
        )?;
        Ok(())
    })?;
    Ok(Json(EndpointCreated { endpoint, secret }))
}

/// Read Endpoint
#[get("/{id}")]
pub(crate) fn read_endpoint(caller: Caller, Path(id): Path<Uuid>) -> Result<Json<EndpointPublic>> {
    Ok(Json(find(id, &caller)?))
}

/// Update Endpoint
///
/// Only the members sent are changed.
#[patch("/{id}")]
pub(crate) fn update_endpoint(
    caller: Caller,
    Settings(settings): Settings<Configuration>,
    Path(id): Path<Uuid>,
    Json(change): Json<EndpointUpdate>,
) -> Result<Json<EndpointPublic>> {
    if let Field::Set(url) = &change.url {
        receiver_url::check(url, &settings)?;
    }
    let scope = change.scope.into_option();
    check_scope(scope, &caller)?;
    let active = change.active.into_option();
    // Another server, or one that works again, need not wait for the end of a rest.
    let begins_anew = change.url.is_set() || active == Some(true);
    let sql = format!(
        "UPDATE endpoint SET
            url = COALESCE($3, url),
            topics = COALESCE($4, topics),
            description = CASE WHEN $5 THEN $6 ELSE description END,
            scope = COALESCE($7, scope),
            active = COALESCE($8, active),
            disabled_reason = CASE WHEN $8 THEN NULL ELSE disabled_reason END,
            failures = CASE WHEN $9 THEN 0 ELSE failures END,
            failing_since = CASE WHEN $9 THEN NULL ELSE failing_since END,
            resting_until = CASE WHEN $9 THEN NULL ELSE resting_until END
        WHERE id = $1 AND owner_id = $2 RETURNING {COLUMNS}"
    );
    let updated = sql::query_optional(
        &sql,
        params![
            id,
            caller.id,
            change.url.into_option(),
            change.topics.into_option().map(|topics| Topics(topics).text()),
            change.description.is_set(),
            change.description.into_option().flatten(),
            scope.map(word),
            active,
            begins_anew
        ],
    )?;
    updated.map(Json).ok_or_else(not_found)
}

/// Delete Endpoint
///
/// Its deliveries are deleted too.
#[delete("/{id}")]
pub(crate) fn delete_endpoint(caller: Caller, Path(id): Path<Uuid>) -> Result<()> {
    match retention::delete_endpoint(id, caller.id)? {
        true => Ok(()),
        false => Err(not_found()),
    }
}

/// Rotate Secret
///
/// The endpoint gets a new secret. For a day, each message is signed with both. Another rotation within that day ends the
/// earlier one at once.
#[post("/{id}/secret")]
pub(crate) fn rotate_secret(caller: Caller, Path(id): Path<Uuid>) -> Result<Json<SecretRotated>> {
    const ROTATE: &str = "UPDATE endpoint SET previous_secret = secret, previous_secret_until = $4, secret = $3
        WHERE id = $1 AND owner_id = $2";
    let secret = secret::generate()?;
    let previous_secret_until = seconds_after(Timestamp::now(), OVERLAP);
    match sql::execute(ROTATE, params![id, caller.id, &secret, previous_secret_until])? {
        0 => Err(not_found()),
        _ => Ok(Json(SecretRotated { secret, previous_secret_until })),
    }
}

/// Finds an endpoint of the caller.
pub(crate) fn find(id: Uuid, caller: &Caller) -> Result<EndpointPublic> {
    let sql = format!("SELECT {COLUMNS} FROM endpoint WHERE id = $1 AND owner_id = $2");
    sql::query_optional(&sql, params![id, caller.id])?.ok_or_else(not_found)
}

/// Checks that an endpoint of the caller gets messages now. Returns the deliveries that wait.
pub(crate) fn check_active(id: Uuid, caller: &Caller) -> Result<Backlog> {
    if !find(id, caller)?.active {
        return Err(Problem::conflict("endpoint_disabled", "The endpoint is disabled"));
    }
    Backlog::of(id)
}

/// Checks that another delivery may wait.
pub(crate) fn check_room(backlog: Backlog) -> Result<()> {
    match backlog.has_room() {
        true => Ok(()),
        false => Err(Problem::conflict("too_many_deliveries", "Too many deliveries of the endpoint wait")),
    }
}

fn check_scope(wanted: Option<Scope>, caller: &Caller) -> Result<()> {
    match wanted {
        Some(Scope::All) if !caller.superuser => {
            Err(Problem::forbidden("superusers_only", "Only superusers receive the events of all accounts"))
        }
        _ => Ok(()),
    }
}

fn not_found() -> Problem {
    Problem::not_found("endpoint_not_found", "Endpoint not found")
}
