//! The probes.

use reqwest::Method;

use crate::support::{TestHost, both};

both! { the_probes_respond_without_credentials }

async fn the_probes_respond_without_credentials(host: &TestHost) {
    for path in ["/healthz", "/readyz"] {
        let answer = host.anonymous().plain(Method::GET, path).send().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(host.anonymous().plain(Method::POST, path).send().await.status, 405);
    }
}
