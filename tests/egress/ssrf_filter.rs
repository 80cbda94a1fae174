//! The allowlist and the SSRF filter: the servers and addresses that a plugin may reach.

use std::sync::{Arc, Mutex};

use super::{EgressClient, FakeDns, LOOPBACK, denied_reason, generous_limits, get, port, release, send};
use crate::support::remote::{Identity, Remote, Reply};
use wharf::egress::{Failure, Roots};

#[tokio::test]
async fn allowed_requests_reuse_their_connection() {
    let remote = Remote::start(|_| Reply::with(201, "x-odd: \u{e9}\r\nkeep-alive: x\r\n", "hello")).await;
    let client = EgressClient::to(&[&remote.origin()]);
    for _ in 0..3 {
        let response = client.get(&remote.url("/a%20b?c=d#e")).await.unwrap();
        assert_eq!((response.status, &*response.body), (201, &b"hello"[..]));
        assert_eq!(response.url, remote.url("/a%20b?c=d"));
        assert_eq!(
            response.headers,
            [("x-odd", "\u{e9}"), ("content-length", "5")].map(|(n, v)| (n.to_owned(), v.to_owned()))
        );
    }
    assert_eq!(remote.accepted(), 1);
    let seen = &remote.seen()[0];
    assert!(seen.starts_with("GET /a%20b?c=d HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains(&format!("host: {}\r\n", remote.addr)), "{seen}");
    // Another grant has its own connections.
    let other = release(&client.egress, &[&remote.origin()], LOOPBACK, generous_limits());
    send(&other, get(&remote.url("/"))).await.unwrap();
    assert_eq!(remote.accepted(), 2);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_replaced() {
    let remote = Remote::start(|_| Reply::Close("HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nhi".to_owned())).await;
    let client = EgressClient::to(&[&remote.origin()]);
    for method in ["GET", "GET", "HEAD", "GET"] {
        let request = wharf::egress::Request { method: method.to_owned(), ..get(&remote.url("/")) };
        assert_eq!(client.send(request).await.unwrap().status, 200);
        remote.until_closed().await;
    }
    assert_eq!(remote.accepted(), 4);
}

#[tokio::test]
async fn servers_that_are_not_on_the_allowlist_are_denied() {
    let remote = Remote::start(|_| Reply::of(200, "")).await;
    let names = FakeDns::of(&[("other.example", &[&["127.0.0.1"]]), ("api.example", &[&["127.0.0.1"]])]);
    let port = port(remote.addr);
    let hosts = [format!("http://api.example:{port}"), format!("http://*.sub.example:{port}")];
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let client = EgressClient::new(&names, Roots::default(), &hosts, LOOPBACK, generous_limits());
    for url in [
        format!("http://other.example:{port}/"),
        format!("http://sub.example:{port}/"),
        format!("http://api.example.other.example:{port}/"),
        format!("https://api.example:{port}/"),
        "http://api.example/".to_owned(),
        remote.url("/"),
    ] {
        let reason = denied_reason(client.get(&url).await);
        assert!(reason.contains("is not among the http.hosts of this plugin's grant; `http.hosts="), "{reason}");
    }
    assert_eq!((names.lookups(), remote.accepted()), (0, 0), "no name was resolved and no connection opened");
    assert_eq!(client.get(&format!("http://API.example:{port}/")).await.unwrap().status, 200);
    let nobody = EgressClient::to(&[]);
    denied_reason(nobody.get(&remote.url("/")).await);
    assert_eq!(remote.accepted(), 1);
}

/// Every spelling is denied by its address, even if the allowlist contains it. No test connects to one of these
/// addresses.
#[tokio::test]
async fn the_metadata_address_is_denied_in_every_spelling() {
    let v6 = [
        "[::169.254.169.254]",
        "[64:ff9b::169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[fd00:ec2::254]",
    ];
    let v4 = [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0xA9.0xFE.0xA9.0xFE",
        "0251.0376.0251.0376",
        "025177524776",
        "169.254.43518",
        "169.16689662",
        "169.254.169.254.",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[0:0:0:0:0:ffff:a9fe:a9fe]",
        "%31%36%39.254.169.254",
        "１６９.２５４.１６９.２５４",
        "169。254。169。254",
    ];
    for spelling in v4.iter().chain(&v6) {
        let listed =
            if v4.contains(spelling) { "http://169.254.169.254".to_owned() } else { format!("http://{spelling}") };
        let reason =
            denied_reason(EgressClient::to(&[&listed]).get(&format!("http://{spelling}/latest/meta-data/")).await);
        assert!(reason.contains("not among the http.networks"), "{spelling}: {reason}");
        denied_reason(EgressClient::to(&["http://api.example"]).get(&format!("http://{spelling}/")).await);
    }
    for trick in [
        "http://api.example@169.254.169.254/",
        "http://169.254.169.254%2f@api.example/",
        "http://api.example\\@169.254.169.254/",
        "http://api.example:80@169.254.169.254/",
        "http://169.254.169.254\\@api.example/",
        "http://api.example./",
    ] {
        let outcome = EgressClient::to(&["http://api.example", "http://169.254.169.254"]).get(trick).await;
        assert!(matches!(outcome, Err(Failure::Invalid(_))), "{trick}: {outcome:?}");
    }
}

#[tokio::test]
async fn one_private_address_makes_the_whole_name_denied() {
    let remote = Remote::start(|_| Reply::of(200, "")).await;
    let port = port(remote.addr);
    let inside = [
        "10.0.0.1",
        "127.0.0.2",
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "fd00:ec2::254",
        "::1",
        "0.0.0.0",
        "::",
        "100.100.100.200",
        "168.63.129.16",
        "224.0.0.1",
    ];
    for address in inside {
        // The only permitted address comes before it and after it.
        for response in [vec!["127.0.0.1", address], vec![address, "127.0.0.1"], vec![address]] {
            let names = FakeDns::of(&[("api.example", &[&response])]);
            let origin = format!("http://api.example:{port}");
            let client = EgressClient::new(&names, Roots::default(), &[&origin], &["127.0.0.1"], generous_limits());
            let reason = denied_reason(client.get(&origin).await);
            assert!(reason.starts_with("api.example has an address that is "), "{reason}");
            assert!(!reason.contains(address) || address == "::", "the internal address is not revealed: {reason}");
        }
    }
    assert_eq!(remote.accepted(), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_checked_for_each_connection() {
    let closing = |_: &str| Reply::Close("HTTP/1.1 200 X\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_owned());
    let remote = Remote::start(closing).await;
    let names = FakeDns::of(&[("api.example", &[&["127.0.0.1"], &["10.0.0.1"], &["169.254.169.254"], &["127.0.0.1"]])]);
    let origin = format!("http://api.example:{}", port(remote.addr));
    let client = EgressClient::new(&names, Roots::default(), &[&origin], &["127.0.0.1"], generous_limits());
    assert_eq!(client.get(&origin).await.unwrap().status, 200);
    assert_eq!(names.lookups(), 1, "the checked address was used for the connection, without another lookup");
    denied_reason(client.get(&origin).await);
    denied_reason(client.get(&origin).await);
    assert_eq!(remote.accepted(), 1);
    assert_eq!(client.get(&origin).await.unwrap().status, 200);
    assert_eq!((names.lookups(), remote.accepted()), (4, 2));
}

#[tokio::test]
async fn a_granted_network_allows_the_addresses_in_it() {
    let remote = Remote::start(|_| Reply::of(200, "")).await;
    let reach = async |networks: &[&str]| {
        EgressClient::new(&FakeDns::default(), Roots::default(), &[&remote.origin()], networks, generous_limits())
            .get(&remote.url("/"))
            .await
    };
    for networks in [&[][..], &["10.0.0.0/8"], &["127.0.0.2"], &["::1"], &["::/0"]] {
        let reason = denied_reason(reach(networks).await);
        assert_eq!(reason, "127.0.0.1 is loopback (RFC 1122) and not among the http.networks of this plugin's grant");
    }
    assert_eq!(remote.accepted(), 0);
    for networks in [&["127.0.0.1"][..], &["127.0.0.0/8"], &["10.0.0.0/8", "0.0.0.0/0"]] {
        assert_eq!(reach(networks).await.unwrap().status, 200);
    }
    // These addresses are denied under every grant: they name no server, and Linux treats the first as loopback.
    for host in ["0.0.0.0", "[::]", "[::ffff:0.0.0.0]", "224.0.0.1", "255.255.255.255"] {
        let origin = format!("http://{host}:{}", port(remote.addr));
        let client = EgressClient::new(
            &FakeDns::default(),
            Roots::default(),
            &[&origin],
            &["0.0.0.0/0", "::/0"],
            generous_limits(),
        );
        denied_reason(client.get(&origin).await);
    }
}

/// A grant of every public server reaches none of these, although all networks are granted. No test connects to a public
/// address.
#[tokio::test]
async fn every_public_server_is_no_internal_server() {
    let names = FakeDns::of(&[
        ("private.example", &[&["10.0.0.1"]]),
        ("loopback.example", &[&["127.0.0.1"]]),
        ("localhost", &[&["127.0.0.1", "::1"]]),
        ("metadata.example", &[&["169.254.169.254"]]),
        ("shared.example", &[&["100.64.0.1"]]),
        ("documentation.example", &[&["203.0.113.1"]]),
        ("multicast.example", &[&["224.0.0.1"]]),
        ("translated.example", &[&["64:ff9b::10.0.0.1"]]),
        ("mixed.example", &[&["1.1.1.1", "127.0.0.1"]]),
    ]);
    let location = Arc::new(Mutex::new(String::new()));
    let current = Arc::clone(&location);
    let remote = Remote::start(move |_| Reply::to(307, &current.lock().unwrap())).await;
    let origin = remote.origin();
    let (hosts, networks) = (["https://*", origin.as_str()], ["0.0.0.0/0", "::/0"]);
    let client = EgressClient::new(&names, Roots::Only(Vec::new()), &hosts, &networks, generous_limits());
    client.egress.set_own_origin("https://wharf.example");
    let denied = [
        ("https://private.example/", "https://* allows public addresses only"),
        ("https://loopback.example/", "https://* allows public addresses only"),
        ("https://localhost/", "https://* allows public addresses only"),
        ("https://metadata.example/latest/meta-data/", "https://* allows public addresses only"),
        ("https://shared.example/", "https://* allows public addresses only"),
        ("https://documentation.example/", "https://* allows public addresses only"),
        ("https://multicast.example/", "no grant can allow"),
        ("https://translated.example/", "https://* allows public addresses only"),
        ("https://mixed.example/", "https://* allows public addresses only"),
        ("https://10.0.0.1/", "https://* allows public addresses only"),
        ("https://127.0.0.1/", "https://* allows public addresses only"),
        ("https://0x7f.1/", "https://* allows public addresses only"),
        ("https://[::1]/", "https://* allows public addresses only"),
        ("https://2852039166/", "https://* allows public addresses only"),
        ("https://[::ffff:169.254.169.254]/", "https://* allows public addresses only"),
        ("https://[fd00:ec2::254]/", "https://* allows public addresses only"),
        ("https://0.0.0.0/", "no grant can allow"),
        ("https://WHARF.example/api/v1/users/", "this host itself"),
        ("https://private.example:8443/", "not among the http.hosts"),
        ("https://1.1.1.1:8443/", "not among the http.hosts"),
        ("https://10.0.0.1:8443/", "not among the http.hosts"),
    ];
    for (url, why) in denied {
        let reason = denied_reason(client.get(url).await);
        assert!(reason.contains(why), "{url}: {reason}");
        *location.lock().unwrap() = url.to_owned();
        let reason = denied_reason(client.get(&remote.url("/")).await);
        assert!(reason.contains(why), "a redirect to {url}: {reason}");
    }
    let reason = denied_reason(client.get("http://private.example/").await);
    assert!(reason.contains("not among the http.hosts"), "{reason}");
    assert_eq!(remote.seen().len(), denied.len(), "a server that is named as well is reached in its network");
}

#[tokio::test]
async fn the_host_itself_is_never_reached() {
    let remote = Remote::start(|_| Reply::of(200, "")).await;
    let names = FakeDns::of(&[("localhost", &[&["127.0.0.1"]])]);
    let port = port(remote.addr);
    for own in ["127.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1"] {
        let spellings = [
            format!("http://127.0.0.1:{port}"),
            format!("http://localhost:{port}"),
            format!("http://[::ffff:127.0.0.1]:{port}"),
        ];
        let hosts: Vec<&str> = spellings.iter().map(String::as_str).collect();
        let client = EgressClient::new(&names, Roots::default(), &hosts, LOOPBACK, generous_limits());
        client.egress.set_own_listener(
            format!("{}:{port}", if own.contains(':') { format!("[{own}]") } else { own.to_owned() }).parse().unwrap(),
        );
        for spelling in &hosts {
            assert_eq!(
                denied_reason(client.get(spelling).await),
                "no grant allows requests to this host itself",
                "{own} {spelling}"
            );
        }
    }
    assert_eq!(remote.accepted(), 0);
    let client = EgressClient::to(&[&remote.origin()]);
    client.egress.set_own_listener(format!("0.0.0.0:{}", if port == 1 { 2 } else { 1 }).parse().unwrap());
    assert_eq!(client.get(&remote.url("/")).await.unwrap().status, 200, "another port is not this host");
}

#[tokio::test]
async fn a_certificate_must_be_trusted_and_match_the_name() {
    let identity = Identity::of("api.example");
    let remote = Remote::start_tls(&identity, |_| Reply::of(200, "secret")).await;
    let names = FakeDns::of(&[("api.example", &[&["127.0.0.1"]]), ("other.example", &[&["127.0.0.1"]])]);
    let origins =
        ["api.example", "other.example", "127.0.0.1"].map(|host| format!("https://{host}:{}", port(remote.addr)));
    let hosts: Vec<&str> = origins.iter().map(String::as_str).collect();
    let trusting =
        EgressClient::new(&names, Roots::Only(vec![identity.certificate.clone()]), &hosts, LOOPBACK, generous_limits());
    assert_eq!(&*trusting.get(&origins[0]).await.unwrap().body, b"secret");
    for origin in &origins[1..] {
        let outcome = trusting.get(origin).await;
        assert!(matches!(&outcome, Err(Failure::Protocol(reason)) if reason.contains("TLS handshake")), "{outcome:?}");
    }
    let stranger = Roots::Only(vec![Identity::of("api.example").certificate]);
    let outcome = EgressClient::new(&names, stranger, &hosts, LOOPBACK, generous_limits()).get(&origins[0]).await;
    assert!(matches!(&outcome, Err(Failure::Protocol(reason)) if reason.contains("certificate")), "{outcome:?}");
    assert_eq!(remote.seen().len(), 1);
}
