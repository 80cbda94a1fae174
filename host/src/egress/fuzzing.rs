//! The way in for fuzzers (`tests/fuzz`), and in no other build: a plugin's request, checked, and what becomes of it when a
//! server sends it on. Owns nothing, decides nothing, and checks nothing of its own: what must hold is said by the fuzz
//! target. Speaks to nobody.

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue, LOCATION};
use hyper::{Method, StatusCode};

use super::message::Message;
use super::origin::Target;
use super::{Failure, Request};

/// A request as it would be written.
#[derive(Debug, Clone)]
pub struct Written {
    /// The method.
    pub method: Method,
    /// To whom.
    pub target: Target,
    /// The headers, without those that framing adds.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl From<Message> for Written {
    fn from(message: Message) -> Self {
        Self { method: message.method, target: message.target, headers: message.headers, body: message.body }
    }
}

/// Checks a request; then follows answers, each a status and a location, as far as they lead. The last may have failed.
///
/// # Errors
/// The request is refused.
pub fn written(
    request: Request,
    most: usize,
    answers: &[(u16, Vec<u8>)],
) -> Result<(Vec<Written>, Option<Failure>), Failure> {
    let mut message = Message::check(request, most)?;
    let mut written = vec![Written::from(message.clone())];
    for (status, location) in answers {
        let (Ok(status), Ok(location)) = (StatusCode::from_u16(*status), HeaderValue::from_bytes(location)) else {
            break;
        };
        let headers = HeaderMap::from_iter([(LOCATION, location)]);
        match message.sent_on(status, &headers) {
            Ok(Some(next)) => {
                written.push(next.clone().into());
                message = next;
            }
            Ok(None) => break,
            Err(failure) => return Ok((written, Some(failure))),
        }
    }
    Ok((written, None))
}
