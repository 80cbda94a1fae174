//! Items: every user has a list of their own. Callers with the permission `read-all` see all items, and callers with
//! `write-all` change and delete them. Superusers have both. The items of a user are deleted with the user, also an item
//! that a request of theirs creates while the user is being deleted.
//!
//! Each change of an item is an event in the transaction of the change: `items.created`, `items.updated` and
//! `items.deleted`. The clients of its owner receive them, and plugins that subscribe to them.
//!
//! Before a handler runs, the host has checked the caller, the path, the query and the body against the declarations
//! below. The handlers only check ownership.

use serde::{Deserialize, Serialize};
use wharf_sdk::events::{self, Topic, UserCreated, UserDeleted};
use wharf_sdk::prelude::*;
use wharf_sdk::sql::{self, FromRow, params, statement};

#[cfg(test)]
mod tests;

plugin! {
    name: "items",
    summary: "Items that belong to users",
    permissions: { "read-all": "See the items of all users", "write-all": "Change and delete the items of all users" },
    migrations: "migrations",
    routes: [read_items, create_item, read_item, update_item, delete_item],
    topics: [ItemCreated, ItemUpdated, ItemDeleted],
    subscriptions: [delete_items_of_user, readmit_user],
}

#[derive(Deserialize, JsonSchema)]
#[serde(default)]
struct Page {
    /// The number of the newest items to skip.
    #[schemars(range(min = 0))]
    skip: i64,
    #[schemars(range(min = 0, max = 1000))]
    limit: i64,
}

impl Default for Page {
    fn default() -> Self {
        Self { skip: 0, limit: 100 }
    }
}

#[derive(Deserialize, JsonSchema)]
struct ItemCreate {
    #[schemars(length(min = 1, max = 255))]
    title: String,
    #[serde(default)]
    #[schemars(length(max = 255))]
    description: Option<String>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
struct ItemUpdate {
    #[schemars(length(min = 1, max = 255))]
    title: Field<String>,
    #[schemars(length(max = 255))]
    description: Field<Option<String>>,
}

#[derive(Serialize, JsonSchema, FromRow)]
struct ItemPublic {
    title: String,
    description: Option<String>,
    id: Uuid,
    owner_id: Uuid,
    created_at: Timestamp,
}

#[derive(Serialize, JsonSchema)]
struct ItemsPublic {
    data: Vec<ItemPublic>,
    /// The number of items on all pages.
    count: i64,
}

#[derive(Serialize, JsonSchema)]
struct Message {
    message: &'static str,
}

/// An item was created.
#[topic("created", access = authenticated)]
#[derive(Serialize, JsonSchema)]
struct ItemCreated {
    id: Uuid,
    owner_id: Uuid,
    title: String,
}

/// The title or the description of an item was written.
#[topic("updated", access = authenticated)]
#[derive(Serialize, JsonSchema)]
struct ItemUpdated {
    id: Uuid,
    owner_id: Uuid,
    title: String,
}

/// An item was deleted.
#[topic("deleted", access = authenticated)]
#[derive(Serialize, JsonSchema)]
struct ItemDeleted {
    id: Uuid,
    owner_id: Uuid,
}

/// Read Items
///
/// The caller's own items, or all items for a caller with `read-all`; newest first.
#[get("/")]
fn read_items(caller: Caller, Query(page): Query<Page>) -> Result<Json<ItemsPublic>> {
    const ALL: &str = "SELECT title, description, id, owner_id, created_at FROM item
        ORDER BY created_at DESC, id LIMIT $1 OFFSET $2";
    const OWN: &str = "SELECT title, description, id, owner_id, created_at FROM item WHERE owner_id = $3
        ORDER BY created_at DESC, id LIMIT $1 OFFSET $2";

    let [data, count] = if caller.has_permission("read-all") {
        sql::batch([statement(ALL, params![page.limit, page.skip]), statement("SELECT COUNT(*) FROM item", params![])])?
    } else {
        sql::batch([
            statement(OWN, params![page.limit, page.skip, caller.id]),
            statement("SELECT COUNT(*) FROM item WHERE owner_id = $1", params![caller.id]),
        ])?
    };
    Ok(Json(ItemsPublic { data: data.all()?, count: count.value()? }))
}

/// Create Item
#[post("/")]
fn create_item(caller: Caller, Json(new): Json<ItemCreate>) -> Result<Json<ItemPublic>> {
    const CREATE: &str = "INSERT INTO item (id, title, description, owner_id, created_at) SELECT $1, $2, $3, $4, $5
        WHERE NOT EXISTS (SELECT 1 FROM departed_owner WHERE id = $4)";
    let item = ItemPublic {
        title: new.title,
        description: new.description,
        id: Uuid::new_v4(),
        owner_id: caller.id,
        created_at: Timestamp::now(),
    };
    sql::transaction(|tx| {
        let values = params![item.id, &item.title, item.description.as_deref(), item.owner_id, item.created_at];
        if tx.execute(CREATE, values)? == 0 {
            // The caller was deleted after the host admitted this request.
            return Err(Problem::not_found("user_not_found", "User not found"));
        }
        let event = ItemCreated { id: item.id, owner_id: item.owner_id, title: item.title.clone() };
        publish(&event, item.id, item.owner_id)
    })?;
    Ok(Json(item))
}

/// Read Item
#[get("/{id}")]
fn read_item(caller: Caller, Path(id): Path<Uuid>) -> Result<Json<ItemPublic>> {
    Ok(Json(find(id, &caller, "read-all")?))
}

/// Update Item
///
/// Only the members sent are changed.
#[put("/{id}")]
fn update_item(caller: Caller, Path(id): Path<Uuid>, Json(change): Json<ItemUpdate>) -> Result<Json<ItemPublic>> {
    let item = find(id, &caller, "write-all")?;
    if !change.title.is_set() && !change.description.is_set() {
        return Ok(Json(item));
    }
    let describes = change.description.is_set();
    let (title, description) = (change.title.into_option(), change.description.into_option().flatten());
    sql::transaction(|tx| {
        // The statement writes each member by itself, so no caller overwrites a member that they did not send.
        let updated: Option<ItemPublic> = tx.query_optional(
            "UPDATE item SET
                title = COALESCE($2, title),
                description = CASE WHEN $3 THEN $4 ELSE description END
            WHERE id = $1 RETURNING title, description, id, owner_id, created_at",
            params![id, title.as_deref(), describes, description.as_deref()],
        )?;
        let item = updated.ok_or_else(not_found)?;
        let event = ItemUpdated { id, owner_id: item.owner_id, title: item.title.clone() };
        publish(&event, id, item.owner_id)?;
        Ok(Json(item))
    })
}

/// Delete Item
#[delete("/{id}")]
fn delete_item(caller: Caller, Path(id): Path<Uuid>) -> Result<Json<Message>> {
    let owner_id = find(id, &caller, "write-all")?.owner_id;
    sql::transaction(|tx| {
        if tx.execute("DELETE FROM item WHERE id = $1", params![id])? == 0 {
            return Err(not_found());
        }
        publish(&ItemDeleted { id, owner_id }, id, owner_id)?;
        Ok(Json(Message { message: "Item deleted successfully" }))
    })
}

/// Deletes the items of a user who was deleted, some at a time, because there can be very many. A repetition goes on with
/// those that are left. It publishes none of them: `user.deleted` says it for all, and the owner, for whom the events would
/// be, is gone.
///
/// A request of the user may create an item at the same time. Each batch is a serializable transaction, and so is the
/// creation; a statement of its own would not be one on PostgreSQL. The batch records that the owner has departed and reads
/// their items, and the creation reads that record and adds an item. So either the batch sees the item and deletes it, or
/// the creation sees the record and is refused. On SQLite, one of them waits for the other. On PostgreSQL, one that saw too
/// little fails with a conflict: the host repeats the batch, and the request gets 409.
#[subscribe("user.deleted")]
fn delete_items_of_user(event: Event<UserDeleted>) -> Result<(), TaskError> {
    const DEPART: &str = "INSERT INTO departed_owner (id) VALUES ($1) ON CONFLICT (id) DO NOTHING";
    const DELETE_SOME: &str = "DELETE FROM item WHERE id IN (SELECT id FROM item WHERE owner_id = $1 LIMIT 1000)";
    const ANY_LEFT: &str = "SELECT id FROM item WHERE owner_id = $1 LIMIT 1";
    let batch = || [DEPART, DELETE_SOME, ANY_LEFT].map(|sql| statement(sql, params![event.payload.id]));
    loop {
        let [_, _, left] = sql::batch(batch())?;
        if left.is_empty() {
            return Ok(());
        }
    }
}

/// Lets the user of a new account create items. An account that `wharf user import` brings back has its earlier id. The
/// events about an account arrive in their order, so an earlier deletion does not undo this. The exception is a deletion that
/// became a dead letter and that an operator retries: it comes after later events. Then the items of the account are deleted,
/// and the user cannot create any more.
#[subscribe("user.created")]
fn readmit_user(event: Event<UserCreated>) -> Result<(), TaskError> {
    sql::execute("DELETE FROM departed_owner WHERE id = $1", params![event.payload.id])?;
    Ok(())
}

/// Publishes an event about an item, for its owner, in the transaction that is open. Events about one item keep their
/// order.
fn publish(event: &impl Topic, id: Uuid, owner_id: Uuid) -> Result<()> {
    events::event(event).key(id).audience(owner_id).publish()?;
    Ok(())
}

/// Finds an item. Checks first that it exists (404), then that it is the caller's or that they have the permission
/// (403).
fn find(id: Uuid, caller: &Caller, permission: &str) -> Result<ItemPublic> {
    const ONE: &str = "SELECT title, description, id, owner_id, created_at FROM item WHERE id = $1";
    let item: ItemPublic = sql::query_optional(ONE, params![id])?.ok_or_else(not_found)?;
    if item.owner_id != caller.id && !caller.has_permission(permission) {
        return Err(Problem::forbidden("not_enough_permissions", "Not enough permissions"));
    }
    Ok(item)
}

fn not_found() -> Problem {
    Problem::not_found("item_not_found", "Item not found")
}
