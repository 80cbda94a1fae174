//! An account and the mail for it are stored together.

use crate::support::host::PASSWORD;
use crate::support::{TestHost, both};
use serde_json::json;

both!(an_account_whose_mail_cannot_be_queued_is_not_created);

async fn an_account_whose_mail_cannot_be_queued_is_not_created(host: &TestHost) {
    host.run_sql(
        "CREATE TRIGGER refuse BEFORE INSERT ON mail_queue BEGIN SELECT RAISE(ABORT, 'refused'); END",
        "CREATE FUNCTION wharf.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON wharf.mail_queue FOR EACH ROW EXECUTE FUNCTION wharf.refuse()",
    )
    .await;
    let account = json!({ "email": "new@example.com", "password": PASSWORD });
    assert_eq!(host.superuser().post("/users/", &account).await.status, 500);
    host.run_sql("DROP TRIGGER refuse", "DROP TRIGGER refuse ON wharf.mail_queue").await;
    host.superuser().post("/users/", &account).await.ok();
}
