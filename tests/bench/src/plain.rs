//! The ground that the ladder stands on: the same responses from plain axum, and sqlx on a SQLite file with the same table and
//! the same durability. It has no limits, no log, no permissions and no events.
//!
//! The list, the creation and the account check the token first: a SELECT by its hash.

mod data;

use std::path::Path;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use self::data::{Account, Data, Item};
use crate::{Failure, own_server};

pub(crate) use self::data::TOKEN;

#[derive(Serialize)]
struct Greeting {
    message: &'static str,
}

#[derive(Serialize)]
struct Items {
    data: Vec<Item>,
    count: i64,
}

#[derive(Deserialize)]
struct NewItem {
    title: String,
    description: Option<String>,
}

#[derive(Deserialize)]
struct Login {
    username: String,
    password: String,
}

#[derive(Serialize)]
struct AccessToken {
    access_token: String,
    token_type: &'static str,
}

/// Serves until the process is killed.
#[tokio::main]
pub(crate) async fn serve(file: &Path) -> Result<(), Failure> {
    let data = Data::open(file).await?;
    let router = Router::new()
        .route("/hello", get(async || Json(Greeting { message: "Hello" })))
        .route("/users/me", get(read_me))
        .route("/items", get(read_items).post(create_item))
        .route("/length", post(async |body: axum::body::Bytes| body.len().to_string()))
        .route("/login", post(login))
        .with_state(data);
    own_server::serve(router).await
}

async fn read_me(State(data): State<Data>, headers: HeaderMap) -> Result<Json<Account>, StatusCode> {
    caller(&data, &headers).await.map(Json)
}

async fn read_items(State(data): State<Data>, headers: HeaderMap) -> Result<Json<Items>, StatusCode> {
    caller(&data, &headers).await?;
    let (data, count) = data.items().await.map_err(failed)?;
    Ok(Json(Items { data, count }))
}

async fn create_item(
    State(data): State<Data>,
    headers: HeaderMap,
    Json(new): Json<NewItem>,
) -> Result<Json<Item>, StatusCode> {
    let caller = caller(&data, &headers).await?;
    let item = Item::new(new.title, new.description, caller.id);
    data.create_item(&item).await.map_err(failed)?;
    Ok(Json(item))
}

async fn login(State(data): State<Data>, Json(login): Json<Login>) -> Result<Json<AccessToken>, StatusCode> {
    let known = data.password_of(&login.username).await.map_err(failed)?;
    let (account, hash) = known.ok_or(StatusCode::UNAUTHORIZED)?;
    let hashed = tokio::task::spawn_blocking(move || data::hash_password(&login.password)).await;
    let given = hashed.ok().and_then(Result::ok).ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
    if given != hash {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let access_token = uuid::Uuid::new_v4().to_string();
    data.add_session(&access_token, &account).await.map_err(failed)?;
    Ok(Json(AccessToken { access_token, token_type: "bearer" }))
}

/// Returns the account of the token.
async fn caller(data: &Data, headers: &HeaderMap) -> Result<Account, StatusCode> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = value.and_then(|value| value.strip_prefix("Bearer ")).ok_or(StatusCode::UNAUTHORIZED)?;
    data.account_of(token).await.map_err(failed)?.ok_or(StatusCode::UNAUTHORIZED)
}

fn failed(_: sqlx::Error) -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}
