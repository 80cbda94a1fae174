//! The checks of events and jobs before they are handed over: their keys, the size and the schema of their payloads, the
//! length of the chain that caused them, and their rate. Owns the texts of the refusals. Counts each limit that is hit.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::hand_over::{MessageServices, Refusal};
use super::message_rate::MessageRate;
use super::{Guest, Limit};
use crate::error::{Error, Kind, Result, code};
use crate::message::{MAX_DEPTH, MAX_KEY};
use crate::route::Schemas;
use crate::route::json_size::parsed_bytes;
use crate::route::payload::PayloadSchema;

/// The longest part of a text of a component in the reason why the component is refused, in characters.
const MAX_PRINTED: usize = 300;

/// The limits of the messages of one release.
pub(super) struct MessageLimits {
    /// Their rate.
    pub(super) rate: Arc<MessageRate>,
    /// The longest payload, in bytes.
    pub(super) payload: usize,
    /// The bytes of the payloads of an hour.
    pub(super) volume: u64,
    /// The names under which hits of them are counted.
    pub(super) counted: Counted,
}

/// See [`MessageLimits::counted`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    pub(super) rate: Limit,
    pub(super) payload: Limit,
    pub(super) volume: Limit,
}

/// The schemas of payloads, by the name of their topic or job.
pub(super) type PayloadSchemas = HashMap<String, Arc<PayloadSchema>>;

/// Compiles the schemas of a release. `kind` is the word for one of them in the reason of a refusal.
///
/// # Errors
/// 422: one of them is not a JSON schema, or they exceed a bound.
pub(super) async fn compile(kind: &'static str, declared: Vec<(String, Option<Value>)>) -> Result<PayloadSchemas> {
    let compiling = tokio::task::spawn_blocking(move || compile_all(kind, declared));
    compiling.await.map_err(|error| Error::internal("the compiler of schemas panicked").with_source(error))?
}

fn compile_all(kind: &str, declared: Vec<(String, Option<Value>)>) -> Result<PayloadSchemas> {
    let mut schemas = Schemas::new(Map::new()).map_err(Error::internal)?;
    let mut compiled = PayloadSchemas::new();
    for (name, schema) in declared {
        let payload = PayloadSchema::compile(schema.as_ref(), &mut schemas);
        let payload = payload.map_err(|error| refused(&format!("{kind} {name}: {error}")))?;
        compiled.insert(name, Arc::new(payload));
    }
    Ok(compiled)
}

/// Returns the error of a component whose declaration is not usable.
pub(super) fn refused(reason: &str) -> Error {
    let reason: String = reason.chars().take(MAX_PRINTED).map(|c| if c.is_control() { ' ' } else { c }).collect();
    Error::new(Kind::Invalid(Vec::new()), code::INVALID_COMPONENT, format!("The file cannot be deployed: {reason}"))
}

/// Checks an ordering key or a deduplication key. `member` is its name for the author of the plugin.
pub(super) fn check_key(member: &str, key: Option<&str>) -> Result<(), Refusal> {
    match key {
        Some(key) if key.len() > MAX_KEY => Err(Refusal::Invalid(format!("{member}: longer than {MAX_KEY} bytes"))),
        Some(key) if key.contains('\0') => Err(Refusal::Invalid(format!("{member}: contains the character U+0000"))),
        _ => Ok(()),
    }
}

impl Guest {
    /// Checks the chain of causes, the rate and the payload of a message, and returns its depth.
    pub(super) async fn check_message(
        &mut self,
        services: &MessageServices,
        limits: &MessageLimits,
        schema: &Arc<PayloadSchema>,
        payload: &str,
    ) -> Result<u32, Refusal> {
        if payload.len() > limits.payload {
            self.usage.hit(limits.counted.payload);
            return Err(Refusal::Limit(format!("payload: {}", limits.payload)));
        }
        let depth = self.context.message_depth();
        if depth > MAX_DEPTH {
            self.usage.hit(Limit::MessageDepth);
            return Err(Refusal::Limit(format!("depth: {MAX_DEPTH}")));
        }
        // Before the schema: the rate bounds the work on payloads that do not fit too.
        self.take_rate(limits)?;
        limits.rate.take_bytes(payload.len(), limits.volume).map_err(|per_hour| {
            self.usage.hit(limits.counted.volume);
            Refusal::Limit(format!("volume: {per_hour}"))
        })?;
        let _reservation = self.reserve(parsed_bytes(payload.as_bytes()))?;
        let checked = match schema.check_briefly(payload) {
            Some(checked) => checked,
            None => check_apart(services, schema, payload).await?,
        };
        checked.map_err(Refusal::Invalid)?;
        Ok(depth)
    }

    /// Counts a message against the rate.
    pub(super) fn take_rate(&self, limits: &MessageLimits) -> Result<(), Refusal> {
        limits.rate.take().map_err(|per_second| {
            self.usage.hit(limits.counted.rate);
            Refusal::Limit(format!("rate: {per_second}"))
        })
    }
}

/// Checks a payload away from the worker threads.
async fn check_apart(
    services: &MessageServices,
    schema: &Arc<PayloadSchema>,
    payload: &str,
) -> wasmtime::Result<Result<(), String>> {
    let (schema, payload) = (Arc::clone(schema), payload.to_owned());
    let permit = Arc::clone(&services.long_checks).acquire_owned().await.map_err(wasmtime::Error::msg)?;
    // A call that ends does not end the check, so the permit belongs to the check.
    let checking = tokio::task::spawn_blocking(move || {
        let checked = schema.check(&payload);
        drop(permit);
        checked
    });
    checking.await.map_err(wasmtime::Error::msg)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_short_and_storable() {
        let reason = |key: &str| match check_key("key", Some(key)) {
            Err(Refusal::Invalid(reason)) => reason,
            other => panic!("{other:?}"),
        };
        assert!(check_key("key", None).is_ok() && check_key("key", Some(&"ä".repeat(MAX_KEY / 2))).is_ok());
        assert_eq!(reason(&"x".repeat(MAX_KEY + 1)), "key: longer than 200 bytes");
        assert_eq!(reason("a\0"), "key: contains the character U+0000");
    }

    #[tokio::test]
    async fn a_component_with_a_schema_that_is_none_is_refused_by_name() {
        let compiled = compile("topic", vec![("created".to_owned(), Some(json!({ "type": "object" })))]).await;
        assert!(compiled.unwrap().contains_key("created"));
        let wrong = vec![("created".to_owned(), Some(json!({ "$ref": "https://example.com" })))];
        let error = compile("topic", wrong).await.unwrap_err();
        assert_eq!(error.code(), &code::INVALID_COMPONENT);
        assert!(error.public().starts_with("The file cannot be deployed: topic created: "), "{}", error.public());
    }
}
