//! Tests of the checks, request by request.

use axum::http::Request;
use proptest::prelude::*;

use super::*;

fn parts(version: Version, method: &str, target: &str, headers: &[(&'static str, &'static str)]) -> Parts {
    let mut request = Request::builder().version(version).method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    request.body(()).unwrap().into_parts().0
}

fn checked(version: Version, target: &str, headers: &[(&'static str, &'static str)]) -> Result<String, String> {
    let mut parts = parts(version, "GET", target, headers);
    check(&mut parts).map_err(|error| error.code().to_string())?;
    Ok(parts.headers.get(HOST).map(|host| host.to_str().unwrap().to_owned()).unwrap_or_default())
}

fn http1(target: &str, headers: &[(&'static str, &'static str)]) -> Result<String, String> {
    checked(Version::HTTP_11, target, headers)
}

fn http2(target: &str, headers: &[(&'static str, &'static str)]) -> Result<String, String> {
    checked(Version::HTTP_2, target, headers)
}

const MALFORMED: &str = "malformed_request";

#[test]
fn a_request_names_one_valid_host() {
    for host in
        ["x", "example.com:8000", "127.0.0.1:", "[::1]:80", "[::ffff:1.2.3.4]", "a_b-c.~d", "%41!$&'()*+,;=", "x:65535"]
    {
        assert_eq!(http1("/", &[("host", host)]).as_deref(), Ok(host));
    }
    for host in [
        "",
        ":80",
        "x y",
        "x/y",
        "x?y",
        "x#y",
        "u@x",
        "u:p@x",
        "http://x",
        "x:y",
        "x:80:80",
        "x:+1",
        "x:65536",
        "[::1",
        "::1",
        "[::1]x",
        "[x]",
        "[fe80::1%25eth0]",
        "%4",
        "%zz",
        "é",
        "x\\y",
        "<x>",
    ] {
        assert_eq!(http1("/", &[("host", host)]), Err(MALFORMED.to_owned()), "{host}");
    }
    assert_eq!(http1("/", &[]), Err(MALFORMED.to_owned()));
    assert_eq!(http1("/", &[("host", "x"), ("host", "x")]), Err(MALFORMED.to_owned()));
    assert_eq!(checked(Version::HTTP_10, "/", &[]).as_deref(), Ok(""));
    assert_eq!(checked(Version::HTTP_10, "/", &[("host", "u@x")]), Err(MALFORMED.to_owned()));
}

#[test]
fn the_authority_of_the_target_is_the_host() {
    assert_eq!(http1("http://target:1/", &[("host", "header")]).as_deref(), Ok("target:1"));
    assert_eq!(http1("HTTPS://target/", &[("host", "header")]).as_deref(), Ok("target"));
    for (target, headers) in [
        ("http://target/", &[][..]),
        ("http://target/", &[("host", "a b")]),
        ("http://u@target/", &[("host", "target")]),
        ("ftp://target/", &[("host", "target")]),
        ("target", &[("host", "target")]),
        ("target:80", &[("host", "target")]),
        ("*", &[("host", "target")]),
    ] {
        assert_eq!(http1(target, headers), Err(MALFORMED.to_owned()), "{target}");
    }
    assert_eq!(http2("http://target/", &[]).as_deref(), Ok("target"));
    assert_eq!(http2("http://target/", &[("host", "Target")]).as_deref(), Ok("target"));
    assert_eq!(http2("/", &[("host", "header")]).as_deref(), Ok("header"));
    for (target, headers) in [
        ("/", &[][..]),
        ("http://target/", &[("host", "header")]),
        ("http://target/", &[("host", "target"), ("host", "target")]),
        ("http://u@target/", &[]),
    ] {
        assert_eq!(http2(target, headers), Err(MALFORMED.to_owned()), "{target}");
    }
}

#[test]
fn one_transfer_coding_is_accepted() {
    let code = |values: &[&'static str]| {
        let headers: Vec<_> =
            [("host", "x")].into_iter().chain(values.iter().map(|value| ("transfer-encoding", *value))).collect();
        checked(Version::HTTP_11, "/", &headers).err().unwrap_or_default()
    };
    for values in [&["chunked"][..], &["Chunked"], &[" chunked\t"]] {
        assert_eq!(code(values), "", "{values:?}");
    }
    for values in [&["chunked, chunked"][..], &["chunked", "chunked"], &["chunked,"], &[",chunked"], &[""]] {
        assert_eq!(code(values), MALFORMED, "{values:?}");
    }
    for values in [&["gzip, chunked"][..], &["gzip", "chunked"], &["identity"], &["chunked;x=y"], &["x", "chunked"]] {
        assert_eq!(code(values), "unsupported_transfer_encoding", "{values:?}");
    }
}

#[test]
fn a_target_is_a_path_of_limited_length() {
    let code = |target: &str| checked(Version::HTTP_11, target, &[("host", "x")]).err().unwrap_or_default();
    assert_eq!(code(&format!("/{}", "x".repeat(MAX_URL_BYTES - 1))), "");
    assert_eq!(code(&format!("/{}", "x".repeat(MAX_URL_BYTES))), "url_too_long");
    assert_eq!(code(&format!("/?{}", "x".repeat(MAX_URL_BYTES))), "url_too_long");
    assert_eq!(code(&format!("http://x/{}", "x".repeat(MAX_URL_BYTES))), "url_too_long");
    let method = |method: &str, target: &str| {
        let mut parts = parts(Version::HTTP_11, method, target, &[("host", "x")]);
        check(&mut parts).err().map(|error| error.code().to_string())
    };
    assert_eq!(method("OPTIONS", "*"), None);
    assert_eq!(method("CONNECT", "x:443").as_deref(), Some("method_not_allowed"));
}

#[test]
fn a_path_has_one_form_and_is_decoded_once() {
    for (written, path) in [
        ("/api/v1/%69tems/", "/api/v1/items/"),
        ("/%41%7a%30%2D%2e%5F%7E", "/Az0-._~"),
        ("/a%2fb%2Fc%5c%00%25%3f%23", "/a%2Fb%2Fc%5C%00%25%3F%23"),
        ("/%2569tems", "/%2569tems"),
        ("/%25%36%39", "/%2569"),
        ("/%e2%82%ac", "/%E2%82%AC"),
        ("/%2e%2e/x", "/../x"),
        ("/%", "/%25"),
        ("/%6", "/%256"),
        ("/%zz%6a", "/%25zzj"),
        ("/%%36%39", "/%2569"),
        ("/plain", "/plain"),
    ] {
        let mut parts = parts(Version::HTTP_11, "GET", &format!("{written}?a=%69"), &[("host", "x")]);
        check(&mut parts).unwrap();
        assert_eq!((parts.uri.path(), parts.uri.query()), (path, Some("a=%69")), "{written}");
    }
}

proptest! {
    #[test]
    fn a_normalized_path_decodes_to_the_same_bytes(path in "/([a-z/%]|%[0-9a-fA-F]{2}|%25[0-9a-f]{2}){0,20}") {
        let normal = normalized(&path);
        let decoded = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
        prop_assert_eq!(decoded(&normal), decoded(&path));
        prop_assert_eq!(normal.matches('/').count(), path.matches('/').count());
    }
}
