//! The servers of a test: functions, each with the origin that a grant would allow. Nothing leaves the process.

use super::state::{Server, with};
use crate::bindings::imports::wharf::http::client::{Error, Request, Response};

pub(crate) fn send(request: &Request) -> Result<Response, Error> {
    let server = with(|host| host.servers.iter().find(|server| is_of(server, &request.url)).cloned());
    let Some(server) = server else {
        let reason = "the server is not among the http.hosts of this plugin's grant (TestPlugin::server)";
        return Err(Error::Denied(reason.to_owned()));
    };
    // Outside of `with`, because the function of a test may call capabilities itself.
    (server.handler)(request).map(|mut response| {
        if response.url.is_empty() {
            response.url.clone_from(&request.url);
        }
        response
    })
}

/// Whether a URL is of the server's origin.
fn is_of(server: &Server, url: &str) -> bool {
    url.strip_prefix(&server.origin).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
}
