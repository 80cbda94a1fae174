//! `GET /utils/health-check/`; the test mail is with the other mails in `recovery`.

use crate::support::{TestHost, both};

both!(the_health_check_is_literally_true);

async fn the_health_check_is_literally_true(host: &TestHost) {
    for path in ["/utils/health-check/", "/utils/health-check"] {
        let answer = host.anonymous().get(path).await;
        answer.ok();
        assert_eq!(answer.text(), "true");
    }
}
