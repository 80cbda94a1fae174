//! The health probes.

use reqwest::Method;

use crate::support::{TestHost, both};

both! { the_probes_respond_without_credentials }

async fn the_probes_respond_without_credentials(host: &TestHost) {
    for path in ["/healthz", "/readyz"] {
        let response = host.anonymous().plain(Method::GET, path).send().await;
        assert_eq!((response.status, response.text().as_str()), (200, "ok"));
        assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(host.anonymous().plain(Method::POST, path).send().await.status, 405);
    }
}
