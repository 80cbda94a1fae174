//! Entry points for the fuzz targets (`tests/fuzz`), compiled only for them: checks a plugin's request, follows
//! redirects, and asks the SSRF filter. Has no state and no checks of its own: the fuzz target states the properties that
//! must hold. Opens no connection.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue, LOCATION};
use hyper::{Method, StatusCode};

use super::checked_request::CheckedRequest;
use super::exchange::Request;
use super::failure::Failure;
use super::origin::{Origin, Server, Target};
use super::ssrf_filter::Allowlist;
use crate::network::Network;

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

/// Returns whether a plugin that may reach every public server, and all networks, may reach this one at an address.
pub fn is_reached_among_all(server: &Server, address: IpAddr) -> bool {
    let hosts = Origin::EVERY_PUBLIC_SERVER.parse::<Origin>().into_iter().collect();
    let allowlist = Allowlist { hosts, networks: Network::all().into() };
    let address = SocketAddr::new(address, server.port);
    let checked = allowlist.check_server(server, None).and_then(|()| allowlist.check_address(server, address, None));
    checked.is_ok()
}
