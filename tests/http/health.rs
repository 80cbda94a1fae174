//! The probes of whoever runs the host.

use reqwest::Method;

use crate::support::{TestHost, both};

both!(the_probes_are_open_and_say_that_all_is_well);

async fn the_probes_are_open_and_say_that_all_is_well(host: &TestHost) {
    for path in ["/healthz", "/readyz", "/healthz/"] {
        let answer = host.anonymous().plain(Method::GET, path).send().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{path}");
    }
    host.anonymous().plain(Method::POST, "/healthz").send().await.has_code(405, "method_not_allowed");
}
