//! Entry points for the fuzz targets (`tests/fuzz`), compiled only for them: checks a plugin's request and follows
//! redirects. Has no state and no checks of its own: the fuzz target states the properties that must hold. Opens no
//! connection.

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue, LOCATION};
use hyper::{Method, StatusCode};

use super::checked_request::CheckedRequest;
use super::exchange::Request;
use super::failure::Failure;
use super::origin::Target;

/// A request as it would be sent.
#[derive(Debug, Clone)]
pub struct Written {
    /// The method.
    pub method: Method,
    /// The server and URL.
    pub target: Target,
    /// The headers, without those of framing.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl From<CheckedRequest> for Written {
    fn from(message: CheckedRequest) -> Self {
        Self { method: message.method, target: message.target, headers: message.headers, body: message.body }
    }
}

/// Checks a request, then follows the redirects in `responses`, each a status and a location. The last may fail.
///
/// # Errors
/// The request is refused.
pub fn written(
    request: Request,
    max_bytes: usize,
    responses: &[(u16, Vec<u8>)],
) -> Result<(Vec<Written>, Option<Failure>), Failure> {
    let mut message = CheckedRequest::check(request, max_bytes)?;
    let mut written = vec![Written::from(message.clone())];
    for (status, location) in responses {
        let (Ok(status), Ok(location)) = (StatusCode::from_u16(*status), HeaderValue::from_bytes(location)) else {
            break;
        };
        let headers = HeaderMap::from_iter([(LOCATION, location)]);
        match message.redirected(status, &headers) {
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
