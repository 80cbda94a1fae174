//! PocketBase with a collection of items for users who signed in, and its default settings. Its passwords have bcrypt hashes.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{Peer, Server, installed};
use crate::free_address::free_address;
use crate::load::Request;
use crate::routes::{JSON, NEW_ITEM, route};
use crate::wharf::{EMAIL, PASSWORD};
use crate::{Failure, ITEMS, LIST_LIMIT};

pub(super) const NAME: &str = "PocketBase";

pub(super) fn start(directory: &Path) -> Result<Peer, Failure> {
    let program = installed("python/bin/pocketbase")?;
    let data = directory.join("pocketbase");
    let created = Command::new(&program).args(["superuser", "upsert", EMAIL, PASSWORD, "--dir"]).arg(&data).output()?;
    if !created.status.success() {
        return Err(format!("no superuser: {}", String::from_utf8_lossy(&created.stdout)).into());
    }
    let address = free_address()?.to_string();
    let mut command = Command::new(&program);
    command.args(["serve", "--http", &address, "--dir"]).arg(&data);
    let url = |path: &str| format!("http://{address}{path}");
    let server = Server::start(&mut command, &url("/api/health"))?;

    let superuser = sign_in(&url("/api/collections/_superusers/auth-with-password"))?;
    let signed_in = "@request.auth.id != ''";
    let collection = json!({
        "name": "items",
        "type": "base",
        "listRule": signed_in,
        "createRule": signed_in,
        "fields": [
            { "name": "title", "type": "text", "required": true },
            { "name": "description", "type": "text" },
            { "name": "created", "type": "autodate", "onCreate": true },
        ],
        "indexes": ["CREATE INDEX items_newest ON items (created DESC, id)"],
    });
    post(&url("/api/collections"), Some(&superuser.token), &collection)?;
    let user = json!({ "email": EMAIL, "password": PASSWORD, "passwordConfirm": PASSWORD });
    post(&url("/api/collections/users/records"), Some(&superuser.token), &user)?;
    let login = url("/api/collections/users/auth-with-password");
    let user = sign_in(&login)?;
    let items = url("/api/collections/items/records");
    for index in 0..ITEMS {
        post(&items, Some(&user.token), &json!({ "title": format!("Item {index}") }))?;
    }

    let me = url(&format!("/api/collections/users/records/{}", user.id));
    let list = format!("{items}?perPage={LIST_LIMIT}&sort=-created");
    let requests = vec![
        (route::ME, Request::get(me).with_token(&user.token)),
        (route::LIST, Request::get(list).with_token(&user.token)),
        (route::CREATE, Request::post(items, JSON, NEW_ITEM).with_token(&user.token)),
        (route::LOGIN, Request::post(login, JSON, credentials().to_string())),
    ];
    Ok(Peer { name: NAME, processes: vec![server.pid()], requests, _server: server, _database: None })
}

/// An account with a token.
struct Account {
    id: String,
    token: String,
}

fn credentials() -> Value {
    json!({ "identity": EMAIL, "password": PASSWORD })
}

fn sign_in(url: &str) -> Result<Account, Failure> {
    let response = post(url, None, &credentials())?;
    let text = |pointer: &str| response.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    Ok(Account { id: text("/record/id").ok_or("no id")?, token: text("/token").ok_or("no token")? })
}

fn post(url: &str, token: Option<&str>, body: &Value) -> Result<Value, Failure> {
    let mut request = ureq::post(url);
    if let Some(token) = token {
        request = request.header("Authorization", token);
    }
    let mut response = request.send_json(body).map_err(|error| format!("{url}: {error}"))?;
    Ok(response.body_mut().read_json()?)
}
