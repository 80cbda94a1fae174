//! Reads the body of a request as its route declares, and parses JSON and forms. `content_coding` decodes a body in
//! between.
//!
//! Owns the size limit of one body and the time for which its client may stall. The memory for all bodies together is
//! limited by `body_memory`. Parsing has no await, and its time grows with the body: `body_work` runs it.

use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, stream};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body;
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};

use super::body_memory::{BodyBudget, Reservation};
use super::media_type::MediaType;
use super::pace::Pace;
use crate::error::{Error, FieldError, Kind, Loc, Result, code};
use crate::route::integers;
use crate::route::json_size::{MEMBER_BYTES, VALUE_BYTES, parsed_bytes};

/// A byte that is not valid UTF-8 becomes U+FFFD.
const LOSSY_GROWTH: usize = char::REPLACEMENT_CHARACTER.len_utf8();

/// The byte order mark. RFC 8259 (section 8.1) allows to ignore it in front of JSON.
pub(super) const BOM: &[u8] = "\u{feff}".as_bytes();

/// A body that was read.
#[derive(Debug, Default)]
pub(super) struct ReadBody {
    /// The bytes, decoded if they had a content coding, and without a byte order mark in front of JSON.
    pub(super) bytes: Bytes,
    /// The parsed value; `None` without a body and for JSON `null`.
    pub(super) value: Option<Value>,
    /// Whether a string in the body may contain U+0000.
    pub(super) may_contain_nul: bool,
    /// The reserved memory for the bytes and the value.
    reservation: Option<Reservation>,
}

impl ReadBody {
    /// Wraps bytes without reserving memory for them.
    #[cfg(any(test, fuzzing))]
    pub(super) fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), ..Self::default() }
    }

    /// Reserves memory in addition to that of the bytes, for what is about to be made of them.
    pub(super) fn reserve_more(&mut self, more: usize) -> Result<()> {
        let bytes = self.bytes.len().saturating_add(more);
        self.reservation.as_mut().map_or(Ok(()), |reservation| reservation.resize(bytes))
    }

    /// Replaces the bytes by what was made of them, for which memory is reserved.
    pub(super) fn replace_bytes(&mut self, bytes: Bytes) {
        self.bytes = bytes;
        // Shrinking never fails.
        let _ = self.reserve_more(0);
    }

    /// Returns the parsed value, the bytes and the reservation for both.
    pub(super) fn into_parts(self) -> (Option<Value>, Bytes, Option<Reservation>) {
        (self.value, self.bytes, self.reservation)
    }

    /// Writes the whole numbers of a JSON body as integers, in the bytes and in the value. Before validation, because a
    /// float would not hold all digits.
    ///
    /// # Errors
    /// The bytes would exceed `limit`, which holds for what a handler receives.
    pub(super) fn rewrite_integers(&mut self, limit: usize) -> Result<()> {
        // Text that is not JSON became a string.
        if !matches!(self.value, Some(Value::Array(_) | Value::Object(_) | Value::Number(_))) {
            return Ok(());
        }
        let rewritten = integers::rewrite_text(&self.bytes, limit).map_err(|integers::TooLong| too_large())?;
        let Some(rewritten) = rewritten else { return Ok(()) };
        self.value = None;
        let more = rewritten.len().saturating_sub(self.bytes.len());
        let reserved = self.reservation.as_ref().map_or(0, Reservation::bytes);
        self.reservation.as_mut().map_or(Ok(()), |reservation| reservation.resize(reserved.saturating_add(more)))?;
        self.value = Some(serde_json::from_slice(&rewritten).map_err(Error::internal)?);
        self.bytes = rewritten.into();
        Ok(())
    }

    /// Drops the parsed value and its reservation. Takes time for a large body.
    pub(super) fn drop_value(&mut self) {
        self.value = None;
        // Shrinking never fails.
        let _ = self.reserve_more(0);
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Reads a whole body of at most `limit` bytes, and reserves memory for it from `budget`. The client may stall for
/// `stall` and must keep the minimum pace.
pub(super) async fn read_raw<B>(
    headers: &HeaderMap,
    body: B,
    limit: usize,
    stall: Duration,
    budget: &BodyBudget,
) -> Result<ReadBody>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    // Refuse a body that can never fit before reading it.
    let limit = limit.min(budget.largest_body());
    let announced =
        headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    if announced.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large());
    }
    let mut body = std::pin::pin!(Limited::new(body, limit));
    let (mut whole, mut reservation) = (Bytes::new(), budget.reserve());
    let (opened, mut pace) = (Instant::now(), Pace::begin(0));
    loop {
        let due = opened + Duration::from_millis(pace.due(millis(stall)));
        let frame = match timeout_at(due, body.frame()).await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(_) => return Err(too_slow()),
        };
        let frame = frame.map_err(|error| match error.is::<LengthLimitError>() {
            true => too_large(),
            false => unreadable().with_internal(error),
        })?;
        // Trailers are ignored.
        let Ok(data) = frame.into_data() else { continue };
        pace.moved(millis(opened.elapsed()), data.len());
        reservation.resize(whole.len().saturating_add(data.len()))?;
        // The first frame is not copied, because it usually is the whole body.
        whole = if whole.is_empty() {
            data
        } else {
            let mut longer = whole.try_into_mut().unwrap_or_else(|whole| BytesMut::from(&*whole));
            longer.extend_from_slice(&data);
            longer.freeze()
        };
    }
    Ok(ReadBody { bytes: whole, reservation: Some(reservation), ..ReadBody::default() })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn too_slow() -> Error {
    Error::new(Kind::BadRequest, code::MALFORMED_BODY, "The body did not arrive in time")
}

pub(super) fn too_large() -> Error {
    Error::new(Kind::TooLarge, code::BODY_TOO_LARGE, "Request body too large")
}

fn unreadable() -> Error {
    Error::bad_request(code::MALFORMED_BODY, "There was an error parsing the body")
}

/// Parses a body as JSON if its content type says so. Any other text becomes a JSON string, which fits no object
/// schema.
pub(super) fn parse_json(headers: &HeaderMap, mut read: ReadBody) -> Result<ReadBody> {
    let is_json = MediaType::of(headers).is_json();
    if is_json && let Some(text) = read.bytes.strip_prefix(BOM) {
        read.bytes = read.bytes.slice_ref(text);
    }
    if read.bytes.is_empty() {
        return Ok(read);
    }
    read.reserve_more(if is_json { parsed_bytes(&read.bytes) } else { read.bytes.len() })?;
    let Ok(text) = std::str::from_utf8(&read.bytes) else { return Err(unreadable()) };
    if !is_json {
        let value = Some(Value::String(text.to_owned()));
        let may_contain_nul = text.contains('\0');
        return Ok(ReadBody { value, may_contain_nul, ..read });
    }
    let value: Value = serde_json::from_str(text).map_err(|error| Error::invalid(vec![json_finding(text, &error)]))?;
    let may_contain_nul = text.contains("\\u0000");
    Ok(ReadBody { value: (!value.is_null()).then_some(value), may_contain_nul, ..read })
}

fn json_finding(text: &str, error: &serde_json::Error) -> FieldError {
    // A lone surrogate is well-formed JSON, but no string can hold it. serde_json has no separate error kind for it.
    let reason = error.to_string();
    if reason.contains("surrogate") || reason.contains("unexpected end of hex escape") {
        return FieldError::new("value_error", ["body"], "String should not contain a lone surrogate");
    }
    let before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    // The column is that of the last byte read, which is not the wrong byte at the end of the input.
    let offset = if error.is_eof() { text.len() } else { before + error.column().saturating_sub(1) };
    FieldError::new("json_invalid", [Loc::from("body"), Loc::Index(offset as u64)], "JSON decode error")
}

/// Parses a form, URL-encoded or multipart, into an object of strings. Empty values count as absent. A body of any
/// other content type gives an empty object.
pub(super) fn parse_form(headers: &HeaderMap, mut read: ReadBody) -> Result<ReadBody> {
    let kind = MediaType::of(headers);
    let boundary = kind.boundary().ok();
    // Upper bound: each member ends with `&`, and each part of a multipart form has at least one line break.
    let members = read.bytes.iter().filter(|byte| matches!(byte, b'&' | b'\n')).count().saturating_add(1);
    // Bytes that are not UTF-8 become a string three times as long. multer copies the whole body, and each part again
    // before it decodes the part.
    let texts = match (&boundary, std::str::from_utf8(&read.bytes)) {
        (Some(_), _) => 2 + LOSSY_GROWTH,
        (None, Err(_)) => LOSSY_GROWTH,
        (None, Ok(_)) => 1,
    };
    read.reserve_more(
        read.bytes.len().saturating_mul(texts).saturating_add(members.saturating_mul(VALUE_BYTES + MEMBER_BYTES)),
    )?;
    let mut object = Map::new();
    let mut insert = |name: String, text: String| {
        if text.is_empty() {
            object.remove(&name);
        } else {
            object.insert(name, Value::String(text));
        }
    };
    if kind.essence().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        for (name, text) in form_urlencoded::parse(&read.bytes) {
            insert(name.into_owned(), text.into_owned());
        }
    } else if let Some(boundary) = boundary {
        // The whole body is there, so nothing is waited for.
        let parsed = parse_multipart(read.bytes.clone(), boundary, insert).now_or_never();
        parsed.ok_or_else(unreadable)?.map_err(|error| unreadable().with_source(error))?;
    }
    let holds_nul = |(name, value): (&String, &Value)| {
        name.contains('\0') || value.as_str().is_some_and(|text| text.contains('\0'))
    };
    let may_contain_nul = object.iter().any(holds_nul);
    Ok(ReadBody { value: Some(Value::Object(object)), may_contain_nul, ..read })
}

async fn parse_multipart(
    body: Bytes,
    boundary: String,
    mut insert: impl FnMut(String, String),
) -> Result<(), multer::Error> {
    let whole = stream::iter([Ok::<_, std::convert::Infallible>(body)]);
    let mut parts = multer::Multipart::new(whole, boundary);
    while let Some(field) = parts.next_field().await? {
        let Some(name) = field.name().map(ToOwned::to_owned) else { continue };
        insert(name, field.text().await?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::body_memory::BodyMemory;
    use super::*;
    use axum::http::HeaderValue;
    use axum::http::header::CONTENT_TYPE;
    use futures_util::StreamExt as _;
    use proptest::prelude::*;

    fn headers(kind: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(kind) {
            headers.insert(CONTENT_TYPE, value);
        }
        headers
    }

    fn parse(kind: &str, body: &'static [u8]) -> Result<ReadBody> {
        parse_json(&headers(kind), ReadBody::from_bytes(Bytes::from_static(body)))
    }

    fn finding(kind: &str, body: &'static [u8]) -> FieldError {
        match parse(kind, body).unwrap_err().kind() {
            Kind::Invalid(findings) => findings[0].clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn json_is_parsed_only_with_a_json_content_type() {
        assert_eq!(parse("application/json; charset=utf-8", b"{}").unwrap().value, Some(serde_json::json!({})));
        assert_eq!(parse("application/merge-patch+json", b"1").unwrap().value, Some(1.into()));
        assert_eq!(parse("text/plain", b"{}").unwrap().value, Some("{}".into()));
        assert_eq!(parse("", b"{}").unwrap().value, Some("{}".into()));
        assert_eq!(parse("application/json", b"null").unwrap().value, None);
        assert_eq!(parse("application/json", b"").unwrap().value, None);
    }

    #[test]
    fn a_byte_order_mark_in_front_of_json_is_ignored() {
        let read = parse("application/json ;charset=UTF-8", b"\xef\xbb\xbf{}").unwrap();
        assert_eq!((&*read.bytes, read.value), (&b"{}"[..], Some(serde_json::json!({}))));
        let read = parse("application/json", b"\xef\xbb\xbf").unwrap();
        assert_eq!((read.bytes.len(), read.value), (0, None));
        assert_eq!(finding("application/json", b"\xef\xbb\xbf\xef\xbb\xbf{}").kind, "json_invalid");
        assert_eq!(parse("text/plain", b"\xef\xbb\xbfx").unwrap().value, Some("\u{feff}x".into()));
    }

    #[test]
    fn a_body_with_rewritten_integers_is_within_the_limit() {
        let read = |limit| {
            let mut read = parse("application/json", b"[1e19]").unwrap();
            read.rewrite_integers(limit).map(|()| read.bytes)
        };
        assert_eq!(read(22).unwrap(), "[10000000000000000000]");
        assert_eq!(read(21).unwrap_err().code(), &code::BODY_TOO_LARGE);
    }

    #[test]
    fn invalid_json_is_reported_with_its_offset() {
        let bad = finding("application/json", b"{\n\"a\": x}");
        assert_eq!((bad.kind.as_ref(), bad.loc), ("json_invalid", vec![Loc::from("body"), Loc::Index(7)]));
        assert_eq!(finding("application/json", b"{").loc, [Loc::from("body"), Loc::Index(1)]);
        assert_eq!(finding("application/json", br#"{"a": "\ud800"}"#).kind, "value_error");
        assert_eq!(parse("application/json", b"\"\xff\"").unwrap_err().code(), &code::MALFORMED_BODY);
    }

    #[test]
    fn forms_become_objects_and_empty_values_are_absent() {
        let form =
            parse_form(&headers("application/x-www-form-urlencoded"), ReadBody::from_bytes("a=1&b=&c=%C3%A4&a=2"));
        assert_eq!(form.unwrap().value, Some(serde_json::json!({ "c": "ä", "a": "2" })));
        let multipart = "--X\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\n1\r\n--X--\r\n";
        let form = parse_form(&headers("multipart/form-data; boundary=X"), ReadBody::from_bytes(multipart));
        assert_eq!(form.unwrap().value, Some(serde_json::json!({ "a": "1" })));
        let form = parse_form(&headers("application/json"), ReadBody::from_bytes(r#"{"a":1}"#));
        assert_eq!(form.unwrap().value, Some(serde_json::json!({})));
    }

    #[test]
    fn a_nul_is_noticed_anywhere_in_a_body() {
        assert!(parse("application/json", br#"{"a": "\u0000"}"#).unwrap().may_contain_nul);
        assert!(parse("text/plain", b"a\0b").unwrap().may_contain_nul);
        for form in ["a=%00", "%00=a"] {
            let parsed = parse_form(&headers("application/x-www-form-urlencoded"), ReadBody::from_bytes(form));
            assert!(parsed.unwrap().may_contain_nul, "{form}");
        }
    }

    /// Reads a body of which one piece arrives per interval.
    async fn read_in_pieces(pieces: usize, bytes: usize, interval: Duration, stall: Duration) -> Result<ReadBody> {
        let piece = Bytes::from(vec![b'x'; bytes]);
        let sent = stream::iter(0..pieces).then(move |_| {
            let piece = piece.clone();
            async move {
                tokio::time::sleep(interval).await;
                Ok::<_, std::convert::Infallible>(hyper::body::Frame::data(piece))
            }
        });
        let (body, memory) = (http_body_util::StreamBody::new(sent), BodyMemory::new(1 << 24));
        read_raw(&HeaderMap::new(), body, 1 << 22, stall, &memory.requests).await
    }

    #[tokio::test]
    async fn the_time_of_a_body_is_about_stalling_and_pace_and_not_about_the_whole() {
        let (second, little) = (Duration::from_secs(1), Duration::from_millis(20));
        let whole = read_in_pieces(15, 50_000, second / 10, second);
        let stalled = read_in_pieces(1, 1, Duration::from_secs(3600), little * 5);
        // 5 kB/s without a pause is below the minimum pace.
        let slow = read_in_pieces(10_000, 100, little, little * 15);
        let (whole, stalled, slow) = tokio::join!(whole, stalled, slow);
        assert_eq!(whole.unwrap().bytes.len(), 750_000, "it took longer than a client may stall");
        for refused in [stalled, slow] {
            assert_eq!(refused.unwrap_err().public(), "The body did not arrive in time");
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(kind in "(application/json|multipart/form-data; boundary=x|[ -~]{0,40})", body: Vec<u8>) {
            let headers = headers(&kind);
            let _ = parse_json(&headers, ReadBody::from_bytes(body.clone()));
            let _ = parse_form(&headers, ReadBody::from_bytes(body));
        }
    }
}
