//! The mails of a host in development, as a developer reads them.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::host::CHAMELEON;
use crate::support::polling::until;
use crate::support::{Component, Setup, TestHost, TestResponse};

async fn get(host: &TestHost, path: &str) -> TestResponse {
    host.anonymous().plain(Method::GET, path).send().await
}

/// Waits for a number of mails, and returns them, the newest first.
async fn mails(host: &TestHost, count: usize) -> Vec<Value> {
    until("the mails", async || {
        let list = get(host, "/dev/mail.json").await.ok();
        let mails = list["data"].as_array().unwrap().clone();
        (mails.len() == count).then_some(mails)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_development_mails_are_shown_instead_of_sent() {
    let host = TestHost::sqlite(Setup::default().in_development().without_mail()).await;
    let query = format!("{CHAMELEON}&grant=email.domains=partner.example");
    host.superuser().deploy(&Component::chameleon().0, &query).await.ok();
    let empty = get(&host, "/dev/mail").await;
    assert!(empty.text().contains("No mail yet"), "{}", empty.text());

    let path = "/utils/test-email/?email_to=jane@example.com";
    assert_eq!(host.superuser().request(Method::POST, path).send().await.status, 201);
    mails(&host, 1).await;
    let letter = json!({
        "address": "a@partner.example", "subject": "<b>Order</b>", "text": "See https://shop.example/1",
        "html": "<script>alert(1)</script><p>Order</p>",
        "attachments": [{ "name": "übersicht.html", "content_type": "text/html", "text": "<script>alert(2)</script>" }],
    });
    host.anonymous().post("/chameleon/mail", &letter).await.ok();
    let shown = mails(&host, 2).await;
    assert_eq!((&shown[0]["plugin"], &shown[0]["to"]), (&json!("chameleon"), &json!("a@partner.example")));
    assert_eq!((&shown[1]["plugin"], &shown[1]["to"]), (&Value::Null, &json!("jane@example.com")));

    let list = get(&host, "/dev/mail").await;
    assert_eq!((list.status, list.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(list.text().contains("&lt;b&gt;Order") && !list.text().contains("<b>Order"), "{}", list.text());
    assert!(list.header("content-security-policy").unwrap().contains("default-src 'none'"));
    assert_eq!(list.header("cache-control"), Some("no-store"));
    let scripts = host.anonymous().plain(Method::GET, "/dev/mail").header("accept", "application/json").send().await;
    assert_eq!(scripts.ok()["data"].as_array().unwrap().len(), 2);

    let mail = format!("/dev/mail/{}", shown[0]["id"].as_str().unwrap());
    let page = get(&host, &mail).await.text();
    assert!(page.contains("<a href=\"https://shop.example/1\"") && page.contains("sandbox=\"\""), "{page}");
    assert!(!page.contains("<script"), "{page}");
    let html = get(&host, &format!("{mail}/html")).await;
    assert!(html.text().contains("<p>Order</p>"));
    let policy = html.header("content-security-policy").unwrap();
    assert!(policy.starts_with("sandbox;") && policy.contains("default-src 'none'"), "{policy}");
    let file = get(&host, shown[0]["attachments"][0]["path"].as_str().unwrap()).await;
    assert_eq!(file.text(), "<script>alert(2)</script>");
    assert_eq!(file.header("content-type"), Some("application/octet-stream"));
    assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
    let disposition = file.header("content-disposition").unwrap();
    assert!(disposition.starts_with("attachment; filename*=UTF-8''%C3%BCbersicht%2Ehtml"), "{disposition}");
    for missing in [format!("{mail}/attachments/1"), "/dev/mail/5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11".to_owned()] {
        get(&host, &missing).await.has_code(404, "mail_not_found");
    }

    // Another site under a name that leads here, and a proxy that passes on the requests of others.
    for (name, value) in
        [("host", "evil.example"), ("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=203.0.113.9")]
    {
        for path in ["/dev/mail", "/dev/mail.json", mail.as_str()] {
            let refused = host.anonymous().plain(Method::GET, path).header(name, value).send().await;
            refused.has_code(403, "forbidden");
        }
    }
}

/// HTTP/2 names the host in `:authority`, and not in `Host`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_version_of_http_has_to_name_this_machine() {
    let host = TestHost::sqlite(Setup::default().in_development().without_mail()).await;
    for client in [reqwest::Client::builder(), reqwest::Client::builder().http2_prior_knowledge()] {
        let client = client.resolve("app.localhost", host.addr()).resolve("evil.example", host.addr()).build().unwrap();
        for (name, status) in [("127.0.0.1", 200), ("app.localhost", 200), ("evil.example", 403)] {
            for path in ["/dev/mail", "/dev/mail.json"] {
                let url = format!("http://{name}:{}{path}", host.addr().port());
                let response = client.get(url).send().await.unwrap();
                assert_eq!(response.status().as_u16(), status, "{name}{path} {:?}", response.version());
            }
        }
    }
    // A whole URL as the target of HTTP/1.1 counts more than the header.
    let mut stream = TcpStream::connect(host.addr()).await.unwrap();
    let request = "GET http://evil.example/dev/mail HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 403 "), "{response}");
}

/// Otherwise a tunnel on the machine could pass on the requests of everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_elsewhere_does_not_speak_for_a_tunnel_on_this_machine() {
    let setup = Setup::default().in_development().without_mail();
    let elsewhere = setup.with(|config| config.server.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()]);
    let host = TestHost::sqlite(elsewhere).await;
    assert_eq!(get(&host, "/dev/mail").await.status, 200);
    let tunnelled = host.anonymous().plain(Method::GET, "/dev/mail").header("x-forwarded-for", "203.0.113.9");
    tunnelled.send().await.has_code(403, "forbidden");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mails_that_are_sent_are_not_shown() {
    for setup in [Setup::default().in_development(), Setup::default().without_mail()] {
        let host = TestHost::sqlite(setup).await;
        for path in ["/dev/mail", "/dev/mail.json"] {
            get(&host, path).await.has_code(404, "route_not_found");
        }
    }
}
