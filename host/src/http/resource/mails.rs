//! The queue of mails: lists with filters, counts, and changes of one or of many. The route of a single mail shows its
//! recipient and its subject. None shows a text: it could contain a link that works once.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::pagination::{self, Order, default_limit};
use crate::clock::Timestamp;
use crate::db::email::operator::{self, Change, Page, QueuedMail, Source};
use crate::db::plugin as plugins;
use crate::error::{Error, FieldError, Result};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::{Changed, Message, Reply};
use crate::id::PluginName;
use crate::message::{MailRecipient, PluginMail};
use crate::permission::HostPermission;
use crate::plugin::refusal::plugin_not_found;

const TAG: &str = "mails";

/// Returns the routes of mails.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    let read = |route: HostRoute<Host>| route.permission(HostPermission::MailRead);
    let operate = |route: HostRoute<Host>| route.permission(HostPermission::MailOperate).run_to_completion();
    vec![
        read(HostRoute::get("/api/v1/mails/", read_mails))
            .named(TAG, "read_mails", "Read Mails")
            .described(
                "Lists the mails of the queue that fit all given filters: those that wait, and those that were given up.",
            )
            .query::<MailsQuery>()
            .replies::<MailsPage>(),
        read(HostRoute::get("/api/v1/mail-queues", read_mail_queues))
            .named(TAG, "read_mail_queues", "Read Mail Queues")
            .described("Counts the mails of the host and of each plugin, by state.")
            .replies::<MailCountsPublic>(),
        read(HostRoute::get("/api/v1/mails/{seq}", read_mail))
            .named(TAG, "read_mail", "Read Mail")
            .described("Returns a mail with its recipient, its subject and the names of its files, without its text.")
            .path::<i64>("seq")
            .replies::<MailDetail>(),
        operate(HostRoute::post("/api/v1/mails/{seq}/retry", retry_mail))
            .named(TAG, "retry_mail", "Retry Mail")
            .described(
                "Makes a dead mail wait again, as if it were new, or makes a mail due at once that waits for another attempt.",
            )
            .path::<i64>("seq")
            .replies::<Message>(),
        operate(HostRoute::delete("/api/v1/mails/{seq}", drop_mail))
            .named(TAG, "drop_mail", "Drop Mail")
            .described("Deletes a mail. One that is being sent may still arrive.")
            .path::<i64>("seq")
            .replies::<Message>(),
        operate(HostRoute::post("/api/v1/mails/bulk/retry", retry_mails))
            .named(TAG, "retry_mails", "Retry Mails")
            .described(
                "Makes all dead mails of a plugin, of the host or of both wait again. With the `state` `waiting`, makes those \
                 due at once that wait for another attempt. The plugin must exist or have mails.",
            )
            .json::<ManyMails>()
            .replies::<Changed>(),
        operate(HostRoute::post("/api/v1/mails/bulk/drop", drop_mails))
            .named(TAG, "drop_mails", "Drop Mails")
            .described(
                "Deletes all mails of a plugin, of the host or of both, unless `state` says otherwise the dead ones. The \
                 plugin must exist or have mails.",
            )
            .json::<ManyMails>()
            .replies::<Changed>(),
    ]
}

#[derive(Deserialize, JsonSchema, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum State {
    Waiting,
    Dead,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Dead => "dead",
        }
    }
}

#[derive(Deserialize, JsonSchema)]
struct MailsQuery {
    /// The plugin that sent them.
    #[serde(default)]
    #[schemars(with = "PluginName")]
    plugin: Option<PluginName>,
    /// Only those of the host.
    #[serde(default)]
    host: bool,
    /// The state.
    #[serde(default)]
    #[schemars(with = "State")]
    state: Option<State>,
    /// The mails that come first: `newest` (the default) or `oldest`.
    #[serde(default)]
    #[schemars(with = "Order")]
    order: Option<Order>,
    /// The `next` of the page before.
    #[serde(default)]
    #[schemars(with = "i64")]
    cursor: Option<i64>,
    #[serde(default = "default_limit")]
    #[schemars(range(min = 1, max = 1000))]
    limit: i64,
}

#[derive(Serialize, JsonSchema)]
struct MailsPage {
    data: Vec<QueuedMail>,
    /// The `cursor` of the next page; null at the end.
    next: Option<i64>,
}

/// A mail with its recipient and its subject.
#[derive(Serialize, JsonSchema)]
struct MailDetail {
    #[serde(flatten)]
    mail: QueuedMail,
    /// The account, the address, or the content of an entry of the host, which names one of them.
    to: Value,
    /// The subject; null: a template of the host has it.
    subject: Option<String>,
    /// The files.
    attachments: Vec<AttachmentPublic>,
    /// The deduplication key.
    dedup_key: Option<String>,
    /// The request that caused it.
    request_id: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct AttachmentPublic {
    name: String,
    content_type: String,
    bytes: usize,
}

/// The mails of one source with one state.
#[derive(Serialize, JsonSchema)]
struct MailCountPublic {
    /// The plugin; null: the host.
    plugin: Option<PluginName>,
    /// `waiting` or `dead`.
    state: String,
    mails: i64,
    /// Their size in the queue.
    bytes: i64,
    /// Since when the first of them is tried.
    oldest_at: Timestamp,
}

#[derive(Serialize, JsonSchema)]
struct MailCountsPublic {
    data: Vec<MailCountPublic>,
}

/// The mails that a change of many is about.
#[derive(Deserialize, JsonSchema)]
struct ManyMails {
    /// Those of this plugin. One of `plugin`, `host` and `all` is required.
    #[serde(default)]
    plugin: Option<PluginName>,
    /// Those of the host.
    #[serde(default)]
    host: bool,
    /// Those of the host and of all plugins.
    #[serde(default)]
    all: bool,
    /// The state: `dead` (the default) or `waiting`.
    #[serde(default)]
    state: Option<State>,
}

impl ManyMails {
    /// Returns the source of the mails; `None`: all. A body that names nothing must not change all mails.
    fn source(self) -> Result<Option<Source>> {
        match (self.plugin, self.host, self.all) {
            (Some(plugin), false, false) => Ok(Some(Source::Plugin(plugin))),
            (None, true, false) => Ok(Some(Source::Host)),
            (None, false, true) => Ok(None),
            _ => {
                let text = "Name a plugin, or set host to true for the mails of the host, or all for both";
                Err(Error::invalid(vec![FieldError::new("value_error", ["body", "plugin"], text)]))
            }
        }
    }
}

async fn read_mails(host: Arc<Host>, call: Call) -> Result<Reply> {
    let query: MailsQuery = call.query()?;
    let source = match (query.plugin, query.host) {
        (Some(plugin), _) => Some(Source::Plugin(plugin)),
        (None, true) => Some(Source::Host),
        (None, false) => None,
    };
    let oldest_first = query.order == Some(Order::Oldest);
    let page = Page { after: query.cursor, oldest_first, limit: query.limit };
    let data = operator::list(&host.db, source.as_ref(), query.state.map(State::as_str), page).await?;
    let next = pagination::next(&data, query.limit, |mail| mail.seq);
    Reply::json(&MailsPage { data, next })
}

async fn read_mail_queues(host: Arc<Host>, _: Call) -> Result<Reply> {
    let public = |count: operator::Count| {
        let operator::Count { plugin, state, mails, bytes, oldest_at } = count;
        MailCountPublic { plugin, state, mails, bytes, oldest_at }
    };
    let counts = operator::counts(&host.db).await?;
    Reply::json(&MailCountsPublic { data: counts.into_iter().map(public).collect() })
}

async fn read_mail(host: Arc<Host>, call: Call) -> Result<Reply> {
    let (mail, operator::Payload { payload }) = operator::find(&host.db, call.path("seq")?).await?;
    Reply::json(&detail(mail, &payload))
}

/// Returns a mail without its text.
fn detail(mail: QueuedMail, payload: &str) -> MailDetail {
    let Some(content) = mail.plugin.as_ref().and_then(|_| serde_json::from_str::<PluginMail>(payload).ok()) else {
        // An entry of the host names the recipient and the occasion, and has no token.
        let to = if mail.plugin.is_none() { serde_json::from_str(payload).unwrap_or_default() } else { Value::Null };
        return MailDetail { mail, to, subject: None, attachments: Vec::new(), dedup_key: None, request_id: None };
    };
    let to = match content.to {
        MailRecipient::Account(account) => serde_json::json!({ "account": account }),
        MailRecipient::Address(address) => serde_json::json!({ "address": address }),
    };
    let attachments = content.attachments.into_iter().map(|file| AttachmentPublic {
        name: file.name,
        content_type: file.content_type,
        // Of base64.
        bytes: file.content.trim_end_matches('=').len().saturating_mul(3) / 4,
    });
    MailDetail {
        mail,
        to,
        subject: Some(content.subject),
        attachments: attachments.collect(),
        dedup_key: content.dedup_key,
        request_id: content.request_id,
    }
}

async fn change_one(host: &Host, call: &Call, change: Change, done: &str) -> Result<Reply> {
    let seq: i64 = call.path("seq")?;
    operator::change_one(&host.db, change, seq, &call.initiator(), host.clock.now()).await?;
    host.mail.wake_all();
    Reply::message(&format!("Mail {seq} {done}"))
}

async fn retry_mail(host: Arc<Host>, call: Call) -> Result<Reply> {
    change_one(&host, &call, Change::Retry, "is due now").await
}

async fn drop_mail(host: Arc<Host>, call: Call) -> Result<Reply> {
    change_one(&host, &call, Change::Drop, "was dropped").await
}

async fn change_all(host: &Host, call: &mut Call, change: Change) -> Result<Reply> {
    let mails: ManyMails = call.json()?;
    let state = mails.state.unwrap_or(State::Dead);
    let source = mails.source()?;
    let (by, at) = (call.initiator(), host.clock.now());
    let changed = operator::change_all(&host.db, change, source.as_ref(), state.as_str(), &by, at).await?;
    if changed == 0
        && let Some(Source::Plugin(plugin)) = &source
        && plugins::find(&host.db, plugin).await?.is_none()
    {
        // Mails can outlive the record of their plugin.
        let page = Page { after: None, oldest_first: false, limit: 1 };
        if operator::list(&host.db, source.as_ref(), None, page).await?.is_empty() {
            return Err(plugin_not_found(plugin));
        }
    }
    host.mail.wake_all();
    Reply::json(&Changed { changed })
}

async fn retry_mails(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    change_all(&host, &mut call, Change::Retry).await
}

async fn drop_mails(host: Arc<Host>, mut call: Call) -> Result<Reply> {
    change_all(&host, &mut call, Change::Drop).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn queued(plugin: Option<&str>) -> QueuedMail {
        QueuedMail {
            seq: 7,
            mail_id: None,
            plugin: plugin.map(|plugin| plugin.parse().unwrap()),
            kind: "plugin".to_owned(),
            state: "dead".to_owned(),
            attempts: 1,
            next_at: Timestamp(0),
            reason: None,
            bytes: 1024,
            created_at: Timestamp(0),
            ended_at: None,
        }
    }

    #[test]
    fn the_text_of_a_mail_is_never_shown() {
        let payload = json!({
            "id": "5f0b5c3e-58f5-4f7c-8f4e-0c3f7c8b0d11", "to": { "address": "jane@example.com" }, "subject": "Hello",
            "text": "https://shop.example/?token=secret", "html": "<a href='secret'>", "dedup_key": "k",
            "attachments": [{ "name": "a.csv", "content_type": "text/csv", "content": "YQouCmIK" }],
            "request_id": null, "at": "2026-11-30T08:00:00Z",
        });
        let shown = serde_json::to_value(detail(queued(Some("items")), &payload.to_string())).unwrap();
        assert_eq!((&shown["to"], &shown["subject"]), (&json!({ "address": "jane@example.com" }), &json!("Hello")));
        assert_eq!(shown["attachments"], json!([{ "name": "a.csv", "content_type": "text/csv", "bytes": 6 }]));
        assert!(!shown.to_string().contains("secret"), "{shown}");
        // Of a later version, which may have other members.
        let shown = serde_json::to_value(detail(queued(Some("items")), "{\"text\": \"secret\"}")).unwrap();
        assert_eq!((&shown["to"], &shown["seq"]), (&Value::Null, &json!(7)));
        let of_host = r#"{"kind":"recovery","email":"jane@example.com"}"#;
        let shown = serde_json::to_value(detail(queued(None), of_host)).unwrap();
        assert_eq!(shown["to"], json!({ "kind": "recovery", "email": "jane@example.com" }));
    }

    #[test]
    fn a_change_of_many_mails_names_their_source() {
        let items: PluginName = "items".parse().unwrap();
        let source = |plugin, host, all| ManyMails { plugin, host, all, state: None }.source();
        assert_eq!(source(Some(items.clone()), false, false).unwrap(), Some(Source::Plugin(items.clone())));
        assert_eq!(source(None, true, false).unwrap(), Some(Source::Host));
        assert_eq!(source(None, false, true).unwrap(), None);
        for (plugin, host, all) in [(None, false, false), (Some(items), true, false), (None, true, true)] {
            assert!(source(plugin, host, all).is_err());
        }
    }
}
