//! Sessions in cookies, their protection against requests of other sites, and the security headers of responses.

use reqwest::Method;
use serde_json::json;

use super::{invalid_token, not_authenticated, text};
use crate::support::host::{PASSWORD, SUPERUSER};
use crate::support::{Request, Setup, TestHost, TestResponse, both};

both! {
    a_frontend_keeps_its_session_in_cookies_that_no_other_site_can_use => Setup::default().with_items(),
}

const FRONTEND: (&str, &str) = ("origin", "https://shop.example");

fn with(request: Request, headers: &[(&str, &str)]) -> Request {
    headers.iter().fold(request, |request, (name, value)| request.header(name, value))
}

async fn sign_in(host: &TestHost, headers: &[(&str, &str)]) -> TestResponse {
    let form = [("username", SUPERUSER), ("password", PASSWORD)];
    with(host.anonymous().request(Method::POST, "/login/access-token?cookie=true"), headers).form(&form).send().await
}

/// Returns the cookies that a response sets, as a browser sends them back.
#[track_caller]
fn cookies(response: &TestResponse) -> Vec<String> {
    assert_eq!((response.status, response.text().as_str()), (204, ""));
    let cookies: Vec<&str> =
        response.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect();
    for cookie in &cookies {
        assert!(cookie.starts_with("__Host-wharf-"), "{cookie}");
        assert!(cookie.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"), "{cookie}");
    }
    assert_eq!(cookies.len(), 2);
    cookies.into_iter().map(|cookie| cookie.split(';').next().unwrap().to_owned()).collect()
}

async fn a_frontend_keeps_its_session_in_cookies_that_no_other_site_can_use(host: &TestHost) {
    // Another site cannot sign its visitor in to an account of its own.
    for headers in [&[][..], &[("origin", "https://evil.example")], &[("sec-fetch-site", "cross-site")]] {
        let refused = sign_in(host, headers).await;
        refused.has_code(403, "cross_site_request");
        assert_eq!(refused.header("set-cookie"), None);
    }
    let signed_in = sign_in(host, &[FRONTEND]).await;
    assert_eq!(signed_in.header("cache-control"), Some("no-store"));
    let kept = cookies(&signed_in);
    let all = kept.join("; ");
    let send = async |method: Method, path: &str, headers: &[(&str, &str)]| {
        with(host.anonymous().request(method, path), &[&[("cookie", all.as_str())][..], headers].concat()).send().await
    };

    // Reading needs the cookie alone; the response is for nobody else.
    for path in ["/users/me", "/users/", "/items/"] {
        let response = send(Method::GET, path, &[]).await;
        response.ok();
        assert_eq!(response.header("cache-control"), Some("private"), "{path}");
        not_authenticated(&host.anonymous().get(path).await);
    }
    // A change needs the word of the browser, on routes of the host and of plugins.
    let item = json!({ "title": "x" });
    let create = async |headers: &[(&str, &str)]| {
        let request = host.anonymous().request(Method::POST, "/items/").json(&item);
        with(request, &[&[("cookie", all.as_str())][..], headers].concat()).send().await
    };
    for headers in [
        &[][..],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")],
    ] {
        create(headers).await.has_code(403, "cross_site_request");
        send(Method::DELETE, "/users/me", headers).await.has_code(403, "cross_site_request");
        send(Method::POST, "/login/logout", headers).await.has_code(403, "cross_site_request");
        send(Method::POST, "/login/refresh-cookie", headers).await.has_code(403, "cross_site_request");
        send(Method::POST, "/login/logout-cookie", headers).await.has_code(403, "cross_site_request");
    }
    assert_eq!(send(Method::GET, "/items/", &[]).await.ok()["count"], 0);
    for headers in
        [&[FRONTEND][..], &[("sec-fetch-site", "same-origin")], &[FRONTEND, ("sec-fetch-site", "cross-site")]]
    {
        create(headers).await.ok();
    }
    // No cookie stands in for a token that is invalid.
    invalid_token(&send(Method::GET, "/users/me", &[("authorization", "Bearer x")]).await);
    not_authenticated(&send(Method::GET, "/users/me", &[("authorization", "Basic YTpi")]).await);
    // Each cookie has its own use, and a token of a cookie is no bearer token of another kind.
    let (session, refresh) = (&kept[0], &kept[1]);
    for cookie in [refresh.as_str(), &session.replace("session=", "refresh="), &format!("{session}; {session}")] {
        not_authenticated(&host.anonymous().request(Method::GET, "/users/me").header("cookie", cookie).send().await);
    }
    let swapped = refresh.replace("refresh=", "session=");
    invalid_token(&host.anonymous().request(Method::GET, "/users/me").header("cookie", &swapped).send().await);

    // A refresh replaces both, and a logout ends both.
    let none = with(host.anonymous().request(Method::POST, "/login/refresh-cookie"), &[FRONTEND]).send().await;
    invalid_token(&none);
    let fresh = cookies(&send(Method::POST, "/login/refresh-cookie", &[FRONTEND]).await);
    assert_ne!(fresh[1], kept[1]);
    let fresh = fresh.join("; ");
    let logout = host.anonymous().request(Method::POST, "/login/logout");
    let ended = with(logout, &[("cookie", fresh.as_str()), FRONTEND]).send().await;
    ended.has_message("Logged out successfully");
    let cleared =
        ended.headers.get_all("set-cookie").iter().filter(|value| value.to_str().unwrap().contains("=; Max-Age=0"));
    assert_eq!(cleared.count(), 2);
    invalid_token(&host.anonymous().request(Method::GET, "/users/me").header("cookie", &fresh).send().await);
    // Browsers drop the cookie of an expired access token. The other one is enough to end the session.
    let kept = cookies(&sign_in(host, &[FRONTEND]).await);
    for _ in 0..2 {
        let logout = host.anonymous().request(Method::POST, "/login/logout-cookie");
        let ended = with(logout, &[("cookie", kept[1].as_str()), FRONTEND]).send().await;
        assert_eq!(cookies(&ended), ["__Host-wharf-session=", "__Host-wharf-refresh="]);
        invalid_token(&host.anonymous().request(Method::GET, "/users/me").header("cookie", &kept[0]).send().await);
    }
    // Without the wish for cookies, there are none.
    let plain = host.anonymous().sign_in(SUPERUSER, PASSWORD).await;
    assert!(plain.header("set-cookie").is_none() && !text(&plain.ok(), "refresh_token").is_empty());
}

#[tokio::test]
async fn every_response_has_the_security_headers_of_its_kind() {
    let proxy = |config: &mut wharf::config::Config| config.server.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    let host = TestHost::sqlite(Setup::default().with(proxy)).await;
    let client = host.anonymous();
    for (path, policy) in [
        ("/api/v1/utils/health-check/", "default-src 'none'; frame-ancestors 'none'"),
        ("/api/v1/users/me", "default-src 'none'; frame-ancestors 'none'"),
        ("/nowhere", "default-src 'none'; frame-ancestors 'none'"),
    ] {
        let response = client.plain(Method::GET, path).send().await;
        for (name, value) in [
            ("content-security-policy", policy),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "strict-origin-when-cross-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(response.header(name), Some(value), "{path}");
        }
        assert_eq!(response.header("strict-transport-security"), None, "{path} over http");
        let secure = client.plain(Method::GET, path).header("x-forwarded-proto", "https").send().await;
        assert_eq!(secure.header("strict-transport-security"), Some("max-age=31536000"), "{path}");
    }
    // The viewer of the document keeps its stricter policy.
    let viewer = client.plain(Method::GET, "/docs").send().await;
    assert!(viewer.header("content-security-policy").unwrap().contains("script-src 'self'"));
}
