//! The body of a deploy: a component file, or a multipart form with the component and the settings of the plugin.
//! Settings can hold secrets, so they never travel in the URL, which proxies log and shells remember.

use axum::http::HeaderMap;
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, stream};
use serde_json::{Value, json};

use crate::error::{Error, FieldError, Result, code};
use crate::http::body::BOM;
use crate::http::media_type::MediaType;

/// The maximum size of the settings.
const MAX_SETTINGS: usize = 64 * 1024;

/// The bytes that a body may have in addition to the component: the settings and the framing of the form.
pub(super) const MAX_ADDITION: usize = MAX_SETTINGS + 4 * 1024;

/// The parts of the body.
#[derive(Debug, Default)]
pub(super) struct DeployBody {
    pub(super) component: Bytes,
    /// `None` means the current settings.
    pub(super) settings: Option<Value>,
}

/// Returns the schema of the multipart form.
pub(super) fn form_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "component": {
                "description": "The component file.", "type": "string", "contentMediaType": "application/wasm",
            },
            "settings": {
                "description": "The settings of the plugin as JSON text. Default: the current settings.",
                "type": "string", "contentMediaType": "application/json",
            },
        },
        "required": ["component"],
        "additionalProperties": false,
    })
}

/// Reads the body. The time grows with its size.
///
/// # Errors
/// 400 or 422: the form is malformed, or the settings are not JSON.
pub(super) fn read(headers: &HeaderMap, body: Bytes) -> Result<DeployBody> {
    let kind = MediaType::of(headers);
    if !kind.is_multipart() {
        return Ok(DeployBody { component: body, settings: None });
    }
    let malformed = || Error::bad_request(code::MALFORMED_BODY, "The multipart form is malformed");
    let boundary = kind.boundary().map_err(|error| malformed().with_source(error))?;
    // The whole body is there, so nothing is waited for.
    let parts = read_parts(body, boundary).now_or_never().ok_or_else(malformed)?;
    let mut read = DeployBody::default();
    let mut seen = Vec::new();
    for (name, bytes) in parts.map_err(|error| malformed().with_source(error))? {
        match name.as_str() {
            _ if seen.contains(&name) => return Err(refuse(&name, "there is more than one such part")),
            "component" => read.component = bytes,
            "settings" => read.settings = Some(settings(&bytes)?),
            _ => return Err(refuse(&name, "there is no such part; there are: component, settings")),
        }
        seen.push(name);
    }
    if !seen.iter().any(|name| name == "component") {
        return Err(refuse("component", "the part with the component file is missing"));
    }
    Ok(read)
}

/// Returns the name and the content of each part.
async fn read_parts(body: Bytes, boundary: String) -> Result<Vec<(String, Bytes)>, multer::Error> {
    /// A form has two parts.
    const ENOUGH: usize = 3;
    let whole = stream::iter([Ok::<_, std::convert::Infallible>(body)]);
    let mut form = multer::Multipart::new(whole, boundary);
    let mut parts = Vec::new();
    while let Some(mut field) = form.next_field().await? {
        let name = field.name().unwrap_or_default().to_owned();
        let mut content = Bytes::new();
        while let Some(chunk) = field.chunk().await? {
            // The first chunk is not copied, because it usually is the whole part.
            content = if content.is_empty() {
                chunk
            } else {
                let mut longer = content.try_into_mut().unwrap_or_else(|content| BytesMut::from(&*content));
                longer.extend_from_slice(&chunk);
                longer.freeze()
            };
        }
        parts.push((name, content));
        if parts.len() >= ENOUGH {
            break;
        }
    }
    Ok(parts)
}

/// Returns the settings. No error repeats a part of them.
fn settings(bytes: &[u8]) -> Result<Value> {
    if bytes.len() > MAX_SETTINGS {
        return Err(refuse("settings", &format!("larger than {MAX_SETTINGS} bytes")));
    }
    let place = |error: serde_json::Error| format!("not JSON, at line {}, column {}", error.line(), error.column());
    serde_json::from_slice(bytes.strip_prefix(BOM).unwrap_or(bytes)).map_err(|error| refuse("settings", &place(error)))
}

fn refuse(part: &str, reason: &str) -> Error {
    Error::invalid(vec![FieldError::new("value_error", ["body", part], reason)])
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use axum::http::header::CONTENT_TYPE;

    use super::*;

    fn read_form(parts: &[(&str, &str)]) -> Result<DeployBody> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("multipart/form-data ; boundary=X"));
        let part = |(name, text): &(&str, &str)| {
            format!("--X\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
        };
        let body: String = parts.iter().map(part).chain(["--X--\r\n".to_owned()]).collect();
        read(&headers, body.into())
    }

    #[test]
    fn a_form_has_a_component_and_settings() {
        let body = read_form(&[("settings", "\u{feff}{\"key\": \"secret\"}"), ("component", "\0asm")]).unwrap();
        assert_eq!((&*body.component, body.settings), (&b"\0asm"[..], Some(json!({ "key": "secret" }))));
        assert_eq!(read_form(&[("component", "x")]).unwrap().settings, None);
        let raw = read(&HeaderMap::new(), Bytes::from_static(b"\0asm")).unwrap();
        assert_eq!((&*raw.component, raw.settings), (&b"\0asm"[..], None));
    }

    #[test]
    fn a_wrong_form_is_refused_without_repeating_its_content() {
        let large = format!("\"{}\"", "x".repeat(MAX_SETTINGS));
        for (parts, reason) in [
            (&[("settings", "{}")][..], "the part with the component file is missing"),
            (&[("component", "x"), ("component", "x")], "there is more than one such part"),
            (&[("component", "x"), ("other", "x")], "there is no such part; there are: component, settings"),
            (&[("settings", "secret")], "not JSON, at line 1, column 1"),
            (&[("settings", &large)], "larger than 65536 bytes"),
        ] {
            assert_eq!(read_form(parts).unwrap_err().report(), reason);
        }
    }
}
