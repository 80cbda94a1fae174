use std::os::unix::fs::symlink;
use std::path::PathBuf;

use http_body_util::BodyExt as _;

use super::*;

const HTML: &[(&str, &str)] = &[("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")];

/// A directory with a frontend in `dist`, and a secret next to it.
struct Site {
    outer: tempfile::TempDir,
    files: StaticFiles,
}

/// The response to a request.
#[derive(Debug)]
struct Sent {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Sent {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

fn response_of(served: Served) -> Option<Response> {
    match served {
        Served::Response(response) => Some(response),
        Served::NoPage | Served::Nothing => None,
    }
}

impl Site {
    fn new() -> Self {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("dist");
        for directory in ["assets", "api", "about us", "empty", ".well-known/.hidden"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        for (name, text) in [
            ("index.html", "page"),
            ("assets/app.js", "script"),
            ("assets/app.js.br", "br"),
            ("assets/app.js.gz", "gzip"),
            ("assets/app-3f2a9c1b.js", "hashed"),
            ("assets/none.txt", ""),
            (".env", "key"),
            ("a b.txt", "blank"),
            ("api/x", "x"),
            ("about us/index.html", "about"),
            (".well-known/security.txt", "contact"),
            (".well-known/.hidden/x", "x"),
        ] {
            std::fs::write(root.join(name), text).unwrap();
        }
        std::fs::write(outer.path().join("secret.txt"), "secret").unwrap();
        symlink(outer.path().join("secret.txt"), root.join("link.txt")).unwrap();
        symlink(outer.path().join("secret.txt"), root.join("a b.txt.gz")).unwrap();
        symlink("assets/app.js", root.join("inner.js")).unwrap();
        let files = StaticFiles::open(&root, 1, Clock::System).unwrap();
        Self { outer, files }
    }

    fn root(&self) -> PathBuf {
        self.outer.path().join("dist")
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Result<Option<Sent>> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let uri = path.parse().unwrap();
        let Some(response) = response_of(self.files.serve(&method, &uri, &map).await?) else { return Ok(None) };
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        Ok(Some(Sent { status: parts.status.as_u16(), headers: parts.headers, text }))
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Sent {
        self.ask(Method::GET, path, headers).await.unwrap().unwrap_or_else(|| panic!("{path} is not found"))
    }

    async fn text(&self, path: &str, headers: &[(&str, &str)]) -> Option<String> {
        self.ask(Method::GET, path, headers).await.unwrap().map(|sent| sent.text)
    }
}

#[tokio::test]
async fn files_are_served_with_type_and_validators() {
    let site = Site::new();
    let sent = site.get("/assets/app.js", &[]).await;
    assert_eq!((sent.status, sent.text.as_str()), (200, "script"));
    assert_eq!(sent.header("content-type"), Some("text/javascript; charset=utf-8"));
    assert_eq!((sent.header("content-length"), sent.header("accept-ranges")), (Some("6"), Some("bytes")));
    assert_eq!(sent.header("x-content-type-options"), Some("nosniff"));
    assert!(sent.header("etag").unwrap().starts_with('"') && sent.header("last-modified").is_some());
    let head = site.ask(Method::HEAD, "/a%20b.txt", &[]).await.unwrap().unwrap();
    assert_eq!((head.header("content-length"), head.text.as_str()), (Some("5"), ""));
    assert_eq!(site.text("/inner.js", &[]).await.as_deref(), Some("script"));
}

#[tokio::test]
async fn one_range_is_served_and_others_are_ignored() {
    let site = Site::new();
    for (range, status, content_range, text) in [
        ("bytes=1-2", 206, Some("bytes 1-2/6"), "cr"),
        ("bytes=-2", 206, Some("bytes 4-5/6"), "pt"),
        ("bytes=-7", 206, Some("bytes 0-5/6"), "script"),
        ("bytes=6-", 416, Some("bytes */6"), ""),
        ("bytes=0-0,2-2", 200, None, "script"),
        ("lines=0-0", 200, None, "script"),
    ] {
        let sent = site.get("/assets/app.js", &[("range", range)]).await;
        assert_eq!((sent.status, sent.header("content-range"), sent.text.as_str()), (status, content_range, text));
        if status != 416 {
            assert_eq!(sent.header("content-length"), Some(text.len().to_string().as_str()), "{range}");
        }
    }
    let head = site.ask(Method::HEAD, "/assets/app.js", &[("range", "bytes=0-0")]).await.unwrap().unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("6")));
}

#[tokio::test]
async fn an_empty_file_has_no_part() {
    let site = Site::new();
    let whole = site.get("/assets/none.txt", &[]).await;
    assert_eq!((whole.status, whole.header("content-length")), (200, Some("0")));
    for (range, status, content_range) in
        [("bytes=0-", 416, Some("bytes */0")), ("bytes=0-0", 416, Some("bytes */0")), ("bytes=-5", 200, None)]
    {
        let sent = site.get("/assets/none.txt", &[("range", range)]).await;
        assert_eq!((sent.status, sent.header("content-range"), sent.text.as_str()), (status, content_range, ""));
    }
}

#[tokio::test]
async fn a_resumed_download_never_mixes_two_versions() {
    let site = Site::new();
    let etag = site.get("/assets/app.js", &[]).await.header("etag").unwrap().to_owned();
    let rest = async |validator: &str| {
        let sent = site.get("/assets/app.js", &[("range", "bytes=3-"), ("if-range", validator)]).await;
        (sent.status, sent.text)
    };
    assert_eq!(rest(&etag).await, (206, "ipt".to_owned()));
    assert_eq!(rest(&format!("W/{etag}")).await, (200, "script".to_owned()));
    // Of the same size and the same time of modification.
    let path = site.root().join("assets/app.js");
    let modified = path.metadata().unwrap().modified().unwrap();
    std::fs::write(&path, "SCRIPT").unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert_eq!(rest(&etag).await, (200, "SCRIPT".to_owned()));
    assert_eq!(site.get("/assets/app.js", &[("if-none-match", &etag)]).await.status, 200);
}

#[tokio::test]
async fn a_client_with_the_current_file_gets_304_with_the_headers_of_caches() {
    let site = Site::new();
    let sent = site.get("/assets/app-3f2a9c1b.js", &[]).await;
    let etag = sent.header("etag").unwrap();
    let same = site.get("/assets/app-3f2a9c1b.js", &[("if-none-match", etag), ("range", "bytes=99-")]).await;
    assert_eq!((same.status, same.text.as_str(), same.header("content-type")), (304, "", None));
    for name in ["etag", "last-modified", "cache-control"] {
        assert_eq!(same.header(name), sent.header(name), "{name}");
    }
    assert_eq!(site.get("/", &[("if-match", "\"other\"")]).await.status, 412);
}

#[tokio::test]
async fn a_refused_request_for_a_file_is_never_kept_as_the_file() {
    let site = Site::new();
    for (name, value, status) in [("if-match", "\"other\"", 412), ("range", "bytes=99-", 416)] {
        let sent = site.get("/assets/app-3f2a9c1b.js", &[(name, value)]).await;
        assert_eq!((sent.status, sent.header("cache-control")), (status, Some("no-store")));
        assert_eq!((sent.header("etag"), sent.header("last-modified")), (None, None), "{status}");
    }
    let part = site.get("/assets/app-3f2a9c1b.js", &[("range", "bytes=0-0")]).await;
    assert_eq!((part.status, part.header("cache-control")), (206, Some("public, max-age=31536000, immutable")));
}

#[tokio::test]
async fn an_encoded_copy_is_sent_where_it_is_accepted() {
    let site = Site::new();
    let get = async |accepted: &str| site.get("/assets/app.js", &[("accept-encoding", accepted)]).await;
    let mut tags = std::collections::BTreeSet::new();
    for (accepted, coding, text) in [
        ("gzip, deflate, br, zstd", Some("br"), "br"),
        ("gzip;q=0.8, br;q=0.1", Some("gzip"), "gzip"),
        ("zstd", None, "script"),
        ("br;q=0", None, "script"),
    ] {
        let sent = get(accepted).await;
        assert_eq!((sent.header("content-encoding"), sent.text.as_str()), (coding, text), "{accepted}");
        assert_eq!(sent.header("content-type"), Some("text/javascript; charset=utf-8"));
        assert_eq!(sent.header("vary"), Some("Accept-Encoding"));
        tags.insert(sent.header("etag").unwrap().to_owned());
    }
    assert_eq!(tags.len(), 3, "each representation has an entity tag of its own");
    let part = site.get("/assets/app.js", &[("accept-encoding", "gzip"), ("range", "bytes=1-")]).await;
    assert_eq!((part.status, part.header("content-range"), part.text.as_str()), (206, Some("bytes 1-3/4"), "zip"));
    let linked = site.get("/inner.js", &[("accept-encoding", "br")]).await;
    assert_eq!(linked.text, "br");
    let itself = site.get("/assets/app.js.gz", &[("accept-encoding", "gzip")]).await;
    assert_eq!((itself.header("content-encoding"), itself.header("content-type")), (None, Some("application/gzip")));
    // The copy would be a link to a file outside.
    let outside = site.get("/a%20b.txt", &[("accept-encoding", "gzip")]).await;
    assert_eq!((outside.text.as_str(), outside.header("vary")), ("blank", None));
}

#[tokio::test]
async fn a_path_without_the_slash_of_its_directory_is_redirected() {
    let site = Site::new();
    let sent = site.get("//about%20us?a=%20b&c", HTML).await;
    assert_eq!((sent.status, sent.header("location")), (308, Some("/about%20us/?a=%20b&c")));
    assert_eq!(site.text("/about%20us/?a", &[]).await.as_deref(), Some("about"));
    assert_eq!(site.text("/empty", HTML).await.as_deref(), Some("page"), "a directory without an index");
    assert!(site.ask(Method::POST, "/about%20us", &[]).await.is_err());
}

#[tokio::test]
async fn a_replaced_link_takes_effect_at_once() {
    let outer = tempfile::tempdir().unwrap();
    let path = |name: &str| outer.path().join(name);
    for version in ["v1", "v2"] {
        std::fs::create_dir(path(version)).unwrap();
        std::fs::write(path(version).join("index.html"), version).unwrap();
    }
    symlink("v1", path("current")).unwrap();
    let files = StaticFiles::open(&path("current"), 1, Clock::System).unwrap();
    let site = Site { files, outer };
    let path = |name: &str| site.outer.path().join(name);
    assert_eq!(site.text("/", &[]).await.as_deref(), Some("v1"));
    symlink("v2", path("next")).unwrap();
    std::fs::rename(path("next"), path("current")).unwrap();
    assert_eq!(site.text("/", &[]).await.as_deref(), Some("v2"));
    std::fs::remove_dir_all(path("v1")).unwrap();
    assert_eq!(site.text("/", &[]).await.as_deref(), Some("v2"));
    symlink("../v2", path("v2").join("out")).unwrap();
    symlink(site.outer.path(), path("v2").join("up")).unwrap();
    assert_eq!(site.text("/out/index.html", &[]).await.as_deref(), Some("v2"), "the link stays within");
    assert_eq!(site.text("/up/current/index.html", &[]).await.as_deref(), Some("v2"), "it leads back");
    std::fs::write(path("secret"), "secret").unwrap();
    assert_eq!(site.text("/up/secret", &[]).await, None);
}

#[tokio::test]
async fn pages_of_the_frontend_fall_back_to_the_index() {
    let site = Site::new();
    assert_eq!(site.text("/", &[]).await.as_deref(), Some("page"));
    for path in ["/login", "/settings/", "/items/5", "/assets/missing-3f2a9c1b.js"] {
        let page = site.get(path, HTML).await;
        assert_eq!((page.text.as_str(), page.header("cache-control")), ("page", Some("no-cache")), "{path}");
        assert_eq!(site.text(path, &[("accept", "*/*")]).await, None, "{path}");
        assert_eq!(site.text(path, &[("accept", "text/html;q=0, application/json")]).await, None, "{path}");
    }
    assert!(site.ask(Method::POST, "/login", HTML).await.unwrap().is_none());
}

#[tokio::test]
async fn what_depends_on_accept_varies_by_it() {
    let site = Site::new();
    assert_eq!(site.get("/login", HTML).await.header("vary"), Some("Accept"));
    assert_eq!(site.get("/assets/app-3f2a9c1b.js", HTML).await.header("vary"), None);
    let served = async |method: Method, path: &str| {
        site.files.serve(&method, &path.parse().unwrap(), &HeaderMap::new()).await.unwrap()
    };
    assert!(matches!(served(Method::GET, "/login").await, Served::NoPage));
    assert!(matches!(served(Method::POST, "/login").await, Served::Nothing));
    for path in ["/.well-known/other", "/api/x", "/.env"] {
        assert!(matches!(served(Method::GET, path).await, Served::Nothing), "{path}");
    }
}

#[tokio::test]
async fn a_path_of_the_api_never_gives_a_page() {
    let site = Site::new();
    for path in ["/api", "/api/v1/nothing", "/%61pi/v1/x", "//api/x", "/docs/x", "/healthz", "/readyz", "/api/x"] {
        assert_eq!(site.text(path, HTML).await, None, "{path}");
    }
}

#[tokio::test]
async fn files_outside_the_directory_and_hidden_files_are_not_served() {
    let site = Site::new();
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
        "/index.html/",
        "/%ff",
        "/./index.html",
        "/%2fetc%2fpasswd",
        "/.well-known/.hidden/x",
        "/assets/.well-known/x",
    ] {
        assert_eq!(site.text(path, &[]).await, None, "{path}");
    }
}

#[tokio::test]
async fn well_known_files_are_served_and_missing_ones_give_no_page() {
    let site = Site::new();
    assert_eq!(site.text("/.well-known/security.txt", HTML).await.as_deref(), Some("contact"));
    for path in ["/.well-known/change-password", "/.well-known", "/%2ewell-known/x"] {
        assert_eq!(site.text(path, HTML).await, None, "{path}");
    }
}

#[tokio::test]
async fn a_file_accepts_only_get_and_head() {
    let error = Site::new().ask(Method::POST, "/assets/app.js", &[]).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::MethodNotAllowed(methods) if methods == &["GET", "HEAD"]));
}

#[tokio::test]
async fn the_number_of_open_files_is_limited() {
    let site = Site::new();
    let (uri, headers) = ("/assets/app.js".parse().unwrap(), HeaderMap::new());
    let ask = async |method: Method| site.files.serve(&method, &uri, &headers).await;
    let unread = response_of(ask(Method::GET).await.unwrap()).unwrap();
    assert_eq!(*ask(Method::GET).await.unwrap_err().code(), code::OVERLOADED);
    drop(unread);
    let _head = response_of(ask(Method::HEAD).await.unwrap()).unwrap();
    assert!(response_of(ask(Method::GET).await.unwrap()).is_some(), "a response without a body holds no file");
}

#[tokio::test]
async fn a_file_that_is_shortened_meanwhile_ends_with_an_error() {
    let site = Site::new();
    let path = site.root().join("large.bin");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let uri = "/large.bin".parse().unwrap();
    let served = site.files.serve(&Method::GET, &uri, &HeaderMap::new()).await.unwrap();
    let response = response_of(served).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(10).unwrap();
    response.into_body().collect().await.unwrap_err();
}
