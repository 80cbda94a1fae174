//! Mails, sent by the interface itself: the tests are about texts that the SDK might refuse.

use serde::Deserialize;
use wharf_sdk::prelude::*;
use wharf_sdk::serde_json::{Value, json};
use wharf_sdk::sql::{self, params};

use bindings::wharf::email::outbox::{self, Attachment, Error, Message, Recipient};

#[allow(
    unsafe_code,
    unreachable_pub,
    dead_code,
    clippy::all,
    clippy::expect_used,
    clippy::string_slice,
    reason = "generated"
)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit",
        inline: "package wharf:chameleon-email; world imports { import wharf:email/outbox@0.1.0; }",
        generate_all,
    });
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Letter {
    /// The id of an account. Without it, `address` is the recipient.
    #[serde(default)]
    account: Option<String>,
    #[serde(default)]
    address: String,
    subject: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    html: Option<String>,
    #[serde(default)]
    attachments: Vec<File>,
    #[serde(default)]
    dedup_key: Option<String>,
    /// How often it is sent.
    #[serde(default)]
    times: Option<u32>,
    /// Whether it is sent in a transaction, and whether that is committed.
    #[serde(default)]
    commit: Option<bool>,
}

#[derive(Deserialize, JsonSchema)]
struct File {
    name: String,
    content_type: String,
    #[serde(default)]
    text: String,
    /// The number of further bytes.
    #[serde(default)]
    bytes: usize,
}

/// Sends a mail, and answers with the outcome of each attempt: an id, or an error as text.
#[post("/mail", access = public)]
pub(crate) fn send_mail(Json(letter): Json<Letter>) -> Result<Json<Vec<Value>>> {
    let send_all = || (0..letter.times.unwrap_or(1)).map(|_| send(&letter)).collect::<Vec<_>>();
    let Some(commit) = letter.commit else { return Ok(Json(send_all())) };
    let mut sent = Vec::new();
    let ended = sql::transaction(|transaction| {
        let id = Uuid::new_v4();
        transaction.execute("INSERT INTO note (id, text) VALUES ($1, $2)", params![id, id.to_string()])?;
        sent = send_all();
        if commit { Ok(()) } else { Err(Problem::conflict("left", "The transaction was left")) }
    });
    match ended {
        Err(error) if commit => Err(error),
        _ => Ok(Json(sent)),
    }
}

fn send(letter: &Letter) -> Value {
    let to = match &letter.account {
        Some(account) => Recipient::Account(account.clone()),
        None => Recipient::Address(letter.address.clone()),
    };
    let file = |file: &File| Attachment {
        name: file.name.clone(),
        content_type: file.content_type.clone(),
        content: [file.text.as_bytes(), vec![b'x'; file.bytes].as_slice()].concat(),
    };
    let message = Message {
        to,
        subject: letter.subject.clone(),
        text: letter.text.clone(),
        html: letter.html.clone(),
        attachments: letter.attachments.iter().map(file).collect(),
        dedup_key: letter.dedup_key.clone(),
    };
    match outbox::send(&message) {
        Ok(id) => json!({ "id": id }),
        Err(error) => json!({ "error": match error {
            Error::Invalid(reason) => format!("invalid: {reason}"),
            Error::Denied(reason) => format!("denied: {reason}"),
            Error::Limit(limit) => format!("limit: {limit}"),
            Error::Conflict => "conflict".to_owned(),
            Error::Unavailable => "unavailable".to_owned(),
        } }),
    }
}
