//! Static files: the built frontend in one directory. Its `index.html` is sent for every page that the frontend routes
//! itself.
//!
//! Owns the rules for which request paths may name a file: none that begins with a dot, except those below
//! `.well-known`, and nothing below the paths of the API. `lookup` finds the file, and none outside the directory.
//! Also limits the number of open files.
//!
//! A file is sent by the letter of RFC 9110: preconditions (`preconditions`), one range (`byte_range`), and an encoded
//! copy next to the file (`app.js.br`) if the client accepts its coding. Each copy has an entity tag of its own, and a
//! range is a part of the chosen copy.

mod file_name;
mod lookup;
mod sending;

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{
    ACCEPT, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderName, HeaderValue, LAST_MODIFIED, LOCATION, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::lookup::{Found, FoundFile, INDEX, OpenFile};
use self::sending::Sending;
use super::accepted_codings::{AcceptedCodings, Coding};
use super::byte_range::{self, Selection};
use super::preconditions::{Outcome, Validators};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result, code};

/// The maximum number of files that are sent at the same time. Each file is open until its client has read it.
const MAX_OPEN: usize = 256;

/// First path segments that never name a file or a page: an unknown path below them gives a problem response.
const RESERVED: &[&str] = &["api", "docs", "healthz", "readyz"];

/// The first path segment of files that other programs look for (RFC 8615). A missing one is never replaced by a page.
const WELL_KNOWN: &str = ".well-known";

/// Headers of every file. The URL of a page can contain a reset token, so the referrer must not reach another site.
const PROTECTION: [(HeaderName, HeaderValue); 3] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (REFERRER_POLICY, HeaderValue::from_static("same-origin")),
];

/// The characters of a path segment that a redirect encodes: all but those that RFC 3986 leaves unreserved.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A header of each response that depends on whether the client accepts HTML.
pub(super) const VARY_ACCEPT: HeaderValue = HeaderValue::from_static("Accept");

/// The outcome of looking for a file.
#[derive(Debug)]
pub enum Served {
    /// A file, the page of the frontend, or a redirect.
    Response(Response),
    /// Nothing. A client that accepts HTML could have got the page of the frontend, so the 404 varies by `Accept`.
    NoPage,
    /// Nothing, whatever the client accepts.
    Nothing,
}

impl Served {
    fn of(response: Option<Response>) -> Self {
        response.map_or(Self::Nothing, Self::Response)
    }
}

/// A directory of files to serve.
#[derive(Debug, Clone)]
pub struct StaticFiles {
    /// The directory as it is configured: a link is resolved for each request.
    directory: Arc<Path>,
    open_files: Arc<Semaphore>,
    clock: Clock,
}

impl StaticFiles {
    /// Opens `directory`. At most `connections` files are sent at the same time.
    ///
    /// # Errors
    /// The directory is missing, not a directory or not readable.
    pub fn open(directory: &Path, connections: usize, clock: Clock) -> Result<Self> {
        let refused = |reason: &str| Error::internal(format!("server.static_dir {}: {reason}", directory.display()));
        let cannot_open = |error| refused("cannot be opened").with_source(error);
        // The working directory could change. Links stay as they are.
        let absolute = std::path::absolute(directory).map_err(cannot_open)?;
        if !absolute.metadata().map_err(cannot_open)?.is_dir() {
            return Err(refused("is not a directory"));
        }
        let open_files = Arc::new(Semaphore::new(connections.clamp(1, MAX_OPEN)));
        Ok(Self { directory: absolute.into(), open_files, clock })
    }

    /// Returns the file that a request names, or the page of the frontend for it.
    ///
    /// # Errors
    /// 405: the file exists and the method is neither GET nor HEAD. 503: the maximum number of files is being sent.
    pub async fn serve(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Served> {
        let Some(named) = relative(uri.path()) else { return Ok(Served::Nothing) };
        let reads = method == Method::GET || method == Method::HEAD;
        let accepted = AcceptedCodings::read(headers);
        let found = self.find(&named, uri.path().ends_with('/'), accepted).await?;
        if !reads && !matches!(found, Found::Nothing) {
            let allowed = Kind::MethodNotAllowed(vec!["GET".to_owned(), "HEAD".to_owned()]);
            return Err(Error::new(allowed, code::METHOD_NOT_ALLOWED, "Method Not Allowed"));
        }
        match found {
            Found::File(file) => return Ok(Served::of(self.send(file, method, headers).await?)),
            Found::Directory => return Ok(Served::of(redirect_into(&named, uri.query()))),
            Found::Nothing => {}
        }
        if !reads || named.starts_with(WELL_KNOWN) {
            return Ok(Served::Nothing);
        }
        if accepts_html(headers)
            && let Found::File(index) = self.find(Path::new(INDEX), false, accepted).await?
            && let Some(mut page) = self.send(index, method, headers).await?
        {
            page.headers_mut().append(VARY, VARY_ACCEPT);
            return Ok(Served::Response(page));
        }
        Ok(Served::NoPage)
    }

    async fn find(&self, relative: &Path, is_directory: bool, accepted: AcceptedCodings) -> Result<Found> {
        let (directory, relative) = (Arc::clone(&self.directory), relative.to_owned());
        blocking(move || lookup::find(&directory, &relative, is_directory, &accepted)).await
    }

    async fn send(&self, file: FoundFile, method: &Method, headers: &HeaderMap) -> Result<Option<Response>> {
        let Ok(permit) = Arc::clone(&self.open_files).try_acquire_owned() else {
            let text = "The host is sending the maximum number of files, try again";
            return Err(Error::new(Kind::Unavailable(Duration::from_secs(1)), code::OVERLOADED, text));
        };
        let opened = blocking(move || {
            let open = file.open();
            (file, open)
        });
        // A file that was deleted since, or that the host may not read, is not found.
        let (file, Ok(open)) = opened.await? else { return Ok(None) };
        Ok(respond(&file, open, permit, method, headers, &self.clock))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("the work on a static file failed").with_source(error))
}

/// Returns the response with an open file. `None` means that it cannot be read.
fn respond(
    file: &FoundFile,
    open: OpenFile,
    permit: OwnedSemaphorePermit,
    method: &Method,
    request: &HeaderMap,
    clock: &Clock,
) -> Option<Response> {
    let etag = HeaderValue::from_str(&format!("\"{}\"", open.tag)).ok()?;
    let validators = Validators::new(etag, open.modified, clock.now());
    let content_type = file_name::content_type([&file.requested, &file.plain]);
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.extend(PROTECTION);
    headers.insert(ETAG, validators.etag().clone());
    headers.extend(validators.last_modified().map(|date| (LAST_MODIFIED, date)));
    headers.extend(file_name::cache_control(&file.requested, &content_type).map(|value| (CACHE_CONTROL, value)));
    if file.has_codings {
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    match validators.check(request) {
        Outcome::Proceed => {}
        Outcome::NotModified => {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Some(response);
        }
        Outcome::Failed => return Some(refused(response, StatusCode::PRECONDITION_FAILED)),
    }
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Ranges are defined for GET only.
    let selection = if method == Method::GET && validators.allow_range(request) {
        byte_range::select(request, open.length)
    } else {
        Selection::Whole
    };
    let (first, length) = match selection {
        Selection::Whole => (0, open.length),
        Selection::Part { first, last } => (first, last.saturating_sub(first).saturating_add(1)),
        Selection::Unsatisfiable => {
            headers.insert(CONTENT_RANGE, HeaderValue::from_str(&format!("bytes */{}", open.length)).ok()?);
            return Some(refused(response, StatusCode::RANGE_NOT_SATISFIABLE));
        }
    };
    headers.insert(CONTENT_TYPE, content_type);
    headers.extend(file.coding.map(|coding| (CONTENT_ENCODING, Coding::header(coding))));
    headers.insert(CONTENT_LENGTH, length.into());
    if let Selection::Part { first, last } = selection {
        let range = format!("bytes {first}-{last}/{}", open.length);
        headers.insert(CONTENT_RANGE, HeaderValue::from_str(&range).ok()?);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    if method == Method::GET {
        *response.body_mut() = Sending::body(open.file, first, length, permit).ok()?;
    }
    Some(response)
}

/// Turns the response with a file into one that refuses the request. No cache may keep it as the file.
fn refused(mut response: Response, status: StatusCode) -> Response {
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.remove(ETAG);
    headers.remove(LAST_MODIFIED);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Returns the redirect to a directory, so that its page finds the files that it names relative to itself. The path is
/// written anew from its segments: one that begins with two slashes would lead to another host.
fn redirect_into(directory: &Path, query: Option<&str>) -> Option<Response> {
    let mut location = String::from("/");
    for segment in directory {
        location.extend(utf8_percent_encode(segment.to_str()?, ENCODED));
        location.push('/');
    }
    if let Some(query) = query {
        location.push('?');
        location.push_str(query);
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    let headers = response.headers_mut();
    headers.extend(PROTECTION);
    headers.insert(LOCATION, HeaderValue::from_str(&location).ok()?);
    // The next build may have a file or no directory there.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Some(response)
}

/// Returns the path below the root that a request path names, if it is allowed to name one.
fn relative(path: &str) -> Option<PathBuf> {
    let decoded = percent_decode_str(path).decode_utf8().ok()?;
    if decoded.contains(['\0', '\\']) {
        return None;
    }
    let mut relative = PathBuf::new();
    for (depth, segment) in decoded.split('/').filter(|segment| !segment.is_empty()).enumerate() {
        let plain = matches!(Path::new(segment).components().next(), Some(Component::Normal(_)));
        let hidden = segment.starts_with('.') && (depth > 0 || segment != WELL_KNOWN);
        if !plain || hidden || (depth == 0 && RESERVED.contains(&segment)) {
            return None;
        }
        relative.push(segment);
    }
    Some(relative)
}

/// Returns whether `Accept` names HTML with a quality other than 0. Scripts send `*/*` alone, browsers name HTML.
fn accepts_html(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let html = ["text/html", "application/xhtml+xml"].iter().any(|html| media.eq_ignore_ascii_case(html));
        let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        html && quality.and_then(|quality| quality.trim().parse::<f32>().ok()) != Some(0.0)
    })
}

#[cfg(test)]
mod tests;
