//! `wharf:log`: the audit half. What reaches the process's log is seen in `cli`, where the process is a real one.

use reqwest::Method;
use sqlx::Row as _;

use crate::support::{TestHost, both};

both!(an_audit_entry_says_who_did_what_and_where);

async fn an_audit_entry_says_who_did_what_and_where(host: &TestHost) {
    host.deploy_chameleon().await;
    let user = host.user("someone@example.com").await;
    let answer = user.request(Method::POST, "/chameleon/audited").send().await;
    assert_eq!(answer.status, 204);
    let sql = "SELECT plugin, action, object, outcome, CAST(detail AS TEXT) AS detail, request_id FROM audit \
               WHERE action = 'chameleon.change'";
    let texts: Vec<String> = match host.database() {
        Some(database) => {
            use sqlx::Connection as _;
            let mut connection = sqlx::PgConnection::connect(&database.superuser_url).await.unwrap();
            sqlx::query("SET search_path TO wharf").execute(&mut connection).await.unwrap();
            let row = sqlx::query(sql).fetch_one(&mut connection).await.unwrap();
            (0..6).map(|column| row.get(column)).collect()
        }
        None => {
            use sqlx::Connection as _;
            let file = host.config().server.data_dir.join("wharf.sqlite");
            let mut connection =
                sqlx::SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
            let row = sqlx::query(sql).fetch_one(&mut connection).await.unwrap();
            (0..6).map(|column| row.get(column)).collect()
        }
    };
    assert_eq!(texts[..4], ["chameleon", "chameleon.change", "17", "success"]);
    assert_eq!(texts[4].replace(' ', ""), r#"{"colour":"green"}"#);
    assert_eq!(Some(texts[5].as_str()), answer.header("x-request-id"));
}
