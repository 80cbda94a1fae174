//! Static files: the built frontend in one directory. Its `index.html` is sent for every page that the frontend routes
//! itself.
//!
//! Owns the rules for which request paths may name a file: none outside the directory (not by `..`, encoding or
//! symbolic link), none that begins with a dot, no directory, and nothing below the paths of the API. Also limits the
//! number of open files. tower-http sends the file (ETag, ranges, conditional requests).

use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RANGE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, Method, Request};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use percent_encoding::percent_decode_str;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt as _;
use tower_http::services::ServeFile;

use crate::error::{Error, Kind, Result, code};

const INDEX: &str = "index.html";

/// The maximum number of files that are sent at the same time. Each file is open until its client has read it.
const MAX_OPEN: usize = 256;

/// First path segments that never name a file or a page: an unknown path below them gives a problem response.
const RESERVED: &[&str] = &["api", "docs", "healthz", "readyz"];

/// Headers of every file. The URL of a page can contain a reset token, so the referrer must not reach another site.
const PROTECTION: [(HeaderName, HeaderValue); 3] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (REFERRER_POLICY, HeaderValue::from_static("same-origin")),
];

/// A directory of files to serve.
#[derive(Debug, Clone)]
pub struct StaticFiles {
    root: PathBuf,
    open_files: Arc<Semaphore>,
}

impl StaticFiles {
    /// Opens `directory`. At most `connections` files are sent at the same time.
    ///
    /// # Errors
    /// The directory is missing, not a directory or not readable.
    pub fn open(directory: &Path, connections: usize) -> Result<Self> {
        let refused = |reason: &str| Error::internal(format!("server.static_dir {}: {reason}", directory.display()));
        let root = directory.canonicalize().map_err(|error| refused("cannot be opened").with_source(error))?;
        if !root.is_dir() {
            return Err(refused("is not a directory"));
        }
        Ok(Self { root, open_files: Arc::new(Semaphore::new(connections.clamp(1, MAX_OPEN))) })
    }

    /// Returns the file that a request names, or the page of the frontend for it. `None` means that there is neither.
    ///
    /// # Errors
    /// 405: the file exists and the method is neither GET nor HEAD. 503: the maximum number of files is being sent.
    pub async fn serve(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<Option<Response>> {
        let Some(relative) = relative(path) else { return Ok(None) };
        let reads = method == Method::GET || method == Method::HEAD;
        if let Some(file) = self.find(&relative, path.ends_with('/')).await {
            if !reads {
                let allowed = Kind::MethodNotAllowed(vec!["GET".to_owned(), "HEAD".to_owned()]);
                return Err(Error::new(allowed, code::METHOD_NOT_ALLOWED, "Method Not Allowed"));
            }
            return self.send(&file, method, headers).await;
        }
        if reads
            && accepts_html(headers)
            && let Some(index) = self.find(Path::new(INDEX), false).await
        {
            return self.send(&index, method, headers).await;
        }
        Ok(None)
    }

    /// Returns the regular file at `relative` with links resolved, if it is within the root.
    async fn find(&self, relative: &Path, directory: bool) -> Option<PathBuf> {
        let path = self.root.join(relative);
        let path = if directory { path.join(INDEX) } else { path };
        let path = tokio::fs::canonicalize(path).await.ok().filter(|path| path.starts_with(&self.root))?;
        tokio::fs::metadata(&path).await.ok().filter(std::fs::Metadata::is_file)?;
        Some(path)
    }

    async fn send(&self, file: &Path, method: &Method, headers: &HeaderMap) -> Result<Option<Response>> {
        let Ok(permit) = Arc::clone(&self.open_files).try_acquire_owned() else {
            let text = "The host is sending the maximum number of files, try again";
            return Err(Error::new(Kind::Unavailable(Duration::from_secs(1)), code::OVERLOADED, text));
        };
        Ok(send(file, method, headers)
            .await
            .map(|response| response.map(|body| Body::new(Sending { body, _permit: permit }))))
    }
}

/// The body of a file that is being sent. It holds the permit until the client has read it.
struct Sending {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
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
        if !plain || segment.starts_with('.') || (depth == 0 && RESERVED.contains(&segment)) {
            return None;
        }
        relative.push(segment);
    }
    Some(relative)
}

async fn send(file: &Path, method: &Method, headers: &HeaderMap) -> Option<Response> {
    let mut request = Request::new(Body::empty());
    *request.method_mut() = method.clone();
    *request.headers_mut() = headers.clone();
    // tower-http serves one range only, and compares each range of a list with each other one first. RFC 9110 allows to
    // ignore the header.
    if headers.get_all(RANGE).iter().any(|value| value.as_bytes().contains(&b',')) {
        request.headers_mut().remove(RANGE);
    }
    let response = match ServeFile::new(file).oneshot(request).await {
        Ok(response) if response.status().is_server_error() || response.status() == 404 => return None,
        Ok(response) => response,
        Err(never) => match never {},
    };
    let mut response = response.map(Body::new);
    let headers = response.headers_mut();
    for (name, value) in PROTECTION {
        headers.insert(name, value);
    }
    if headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/html")) {
        // A page names its scripts by hash. Revalidated each time, it never names the scripts of an older build.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    Some(response)
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
mod tests {
    use axum::http::StatusCode;
    use http_body_util::BodyExt as _;

    use super::*;

    const HTML: &[(&str, &str)] = &[("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")];

    fn directory() -> tempfile::TempDir {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("dist");
        std::fs::create_dir_all(root.join("assets")).unwrap();
        std::fs::create_dir_all(root.join("api")).unwrap();
        for (name, text) in
            [("index.html", "page"), ("assets/app.js", "script"), (".env", "key"), ("a b.txt", "blank"), ("api/x", "x")]
        {
            std::fs::write(root.join(name), text).unwrap();
        }
        std::fs::write(outer.path().join("secret.txt"), "secret").unwrap();
        std::os::unix::fs::symlink(outer.path().join("secret.txt"), root.join("link.txt")).unwrap();
        std::os::unix::fs::symlink("assets/app.js", root.join("inner.js")).unwrap();
        outer
    }

    async fn ask(
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Option<(StatusCode, HeaderMap, String)>> {
        let outer = directory();
        let files = StaticFiles::open(&outer.path().join("dist"), 1).unwrap();
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect();
        let Some(response) = files.serve(&method, path, &headers).await? else { return Ok(None) };
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Ok(Some((parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())))
    }

    #[tokio::test]
    async fn a_list_of_ranges_is_ignored() {
        let get = async |range: &str| {
            let (status, _, text) = ask(Method::GET, "/assets/app.js", &[("range", range)]).await.unwrap().unwrap();
            (status.as_u16(), text)
        };
        assert_eq!(get("bytes=0-1").await, (206, "sc".to_owned()));
        assert_eq!(get("bytes=0-0,2-2").await, (200, "script".to_owned()));
    }

    async fn text(path: &str, headers: &[(&str, &str)]) -> Option<String> {
        ask(Method::GET, path, headers).await.unwrap().map(|(_, _, text)| text)
    }

    #[tokio::test]
    async fn files_are_served_with_type_and_validators() {
        let (status, headers, body) = ask(Method::GET, "/assets/app.js", &[]).await.unwrap().unwrap();
        assert_eq!((status, body.as_str()), (StatusCode::OK, "script"));
        assert!(headers["content-type"].to_str().unwrap().contains("javascript"));
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert!(headers.contains_key("etag") && headers.contains_key("last-modified"));
        let (status, _, body) = ask(Method::GET, "/assets/app.js", &[("range", "bytes=1-2")]).await.unwrap().unwrap();
        assert_eq!((status, body.as_str()), (StatusCode::PARTIAL_CONTENT, "cr"));
        let (_, headers, body) = ask(Method::HEAD, "/a%20b.txt", &[]).await.unwrap().unwrap();
        assert_eq!((headers["content-length"].to_str().unwrap(), body.as_str()), ("5", ""));
        assert_eq!(text("/inner.js", &[]).await.as_deref(), Some("script"));
    }

    #[tokio::test]
    async fn pages_of_the_frontend_fall_back_to_the_index() {
        assert_eq!(text("/", &[]).await.as_deref(), Some("page"));
        for path in ["/login", "/settings/", "/items/5", "/assets/missing.js"] {
            assert_eq!(text(path, HTML).await.as_deref(), Some("page"), "{path}");
            assert_eq!(text(path, &[("accept", "*/*")]).await, None, "{path}");
            assert_eq!(text(path, &[("accept", "text/html;q=0, application/json")]).await, None, "{path}");
        }
        assert!(ask(Method::POST, "/login", HTML).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_path_of_the_api_never_gives_a_page() {
        for path in ["/api", "/api/v1/nothing", "/%61pi/v1/x", "//api/x", "/docs/x", "/healthz", "/readyz", "/api/x"] {
            assert_eq!(text(path, HTML).await, None, "{path}");
        }
    }

    #[tokio::test]
    async fn files_outside_the_directory_and_hidden_files_are_not_served() {
        for path in [
            "/../secret.txt",
            "/%2e%2e/secret.txt",
            "/assets/..%2f..%2fsecret.txt",
            "/..%5csecret.txt",
            "/.env",
            "/%2eenv",
            "/link.txt",
            "/assets",
            "/assets/",
            "/index.html%00.js",
            "/%ff",
            "/./index.html",
        ] {
            assert_eq!(text(path, &[]).await, None, "{path}");
        }
        assert_eq!(text("/%2fetc%2fpasswd", &[]).await, None);
    }

    #[tokio::test]
    async fn a_file_accepts_only_get_and_head() {
        let error = ask(Method::POST, "/assets/app.js", &[]).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::MethodNotAllowed(methods) if methods == &["GET", "HEAD"]));
    }

    #[tokio::test]
    async fn the_number_of_open_files_is_limited() {
        let outer = directory();
        let files = StaticFiles::open(&outer.path().join("dist"), 1).unwrap();
        let headers = HeaderMap::new();
        let ask = || files.serve(&Method::GET, "/assets/app.js", &headers);
        let unread = ask().await.unwrap().unwrap();
        assert_eq!(*ask().await.unwrap_err().code(), code::OVERLOADED);
        drop(unread);
        assert!(ask().await.unwrap().is_some());
    }
}
