//! The servers of a test: functions, each with the origin that a grant would allow. Nothing leaves the process.

use super::host::with;
use crate::bindings::imports::wharf::http::client as wit;
use crate::http::{self, Error, Sent};
use std::fmt;
use std::rc::Rc;

type Answering = dyn Fn(&Sent) -> Result<http::Answer, Error>;

#[derive(Clone)]
pub(crate) struct Server {
    origin: String,
    answer: Rc<Answering>,
}

impl Server {
    pub(super) fn new(origin: &str, answer: impl Fn(&Sent) -> Result<http::Answer, Error> + 'static) -> Self {
        Self { origin: origin.trim_end_matches('/').to_owned(), answer: Rc::new(answer) }
    }

    fn is_of(&self, url: &str) -> bool {
        url.strip_prefix(&self.origin).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)
    }
}

pub(crate) fn send(request: &wit::Request) -> Result<wit::Response, Error> {
    let server = with(|host| host.servers.iter().find(|server| server.is_of(&request.url)).cloned());
    let Some(server) = server else {
        let reason = "the server is not among the http.hosts of this plugin's grant (TestPlugin::server)";
        return Err(Error::Denied(reason.to_owned()));
    };
    // Outside of `with`: the function of a test may use what a plugin does.
    (server.answer)(request).map(|mut response| {
        if response.url().is_empty() {
            response.raw.url.clone_from(&request.url);
        }
        response.raw
    })
}
