//! `wharf role`: lists, creates, changes and deletes roles through the operator API.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::api::{Api, Method, Remote};
use super::failure::Failure;
use super::plugin::view::{members, show_response, text, to_the_second, words};
use super::terminal::Terminal;
use crate::id::RoleName;

/// The operator API's path of roles.
const ROLES: &str = "/api/v1/roles/";

/// List, create and change roles and their permissions.
#[derive(Debug, Subcommand)]
pub(super) enum RoleCommand {
    /// List the roles
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Show one role with its permissions
    Show {
        /// The role
        name: RoleName,
        #[command(flatten)]
        remote: Remote,
    },
    /// List the permissions that a role can have
    Permissions {
        #[command(flatten)]
        remote: Remote,
    },
    /// Create a role
    Create(CreateCommand),
    /// Change a role
    Edit(EditCommand),
    /// Delete a role
    Delete(DeleteCommand),
}

/// Create a role.
#[derive(Debug, Args)]
pub(super) struct CreateCommand {
    /// The role: 1 to 40 characters of a-z, 0-9 and '-'
    name: RoleName,
    /// The purpose of the role
    #[arg(long, default_value = "")]
    description: String,
    /// Its permissions, such as plugins:deploy or items:read-all
    #[arg(long = "permission", value_name = "PERMISSION", value_delimiter = ',')]
    permissions: Vec<String>,
    /// Give it to new accounts, in place of the role that they get now
    #[arg(long)]
    default: bool,
    /// Count its permissions only in sessions with two factors
    #[arg(long)]
    require_second_factor: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Change a role.
#[derive(Debug, Args)]
pub(super) struct EditCommand {
    /// The role
    name: RoleName,
    /// Add permissions
    #[arg(long, value_name = "PERMISSION", value_delimiter = ',')]
    add: Vec<String>,
    /// Remove permissions
    #[arg(long, value_name = "PERMISSION", value_delimiter = ',')]
    remove: Vec<String>,
    /// Set the purpose of the role
    #[arg(long)]
    description: Option<String>,
    /// Whether new accounts get it
    #[arg(long, value_name = "BOOLEAN")]
    default: Option<bool>,
    /// Whether its permissions count only in sessions with two factors
    #[arg(long, value_name = "BOOLEAN")]
    require_second_factor: Option<bool>,
    #[command(flatten)]
    remote: Remote,
}

/// Delete a role.
#[derive(Debug, Args)]
pub(super) struct DeleteCommand {
    /// The role
    name: RoleName,
    /// Take it from the accounts that have it
    #[arg(long)]
    take: bool,
    #[command(flatten)]
    remote: Remote,
}

impl RoleCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        match self {
            Self::List { remote } => {
                show_response(&all(&Api::open(&remote)?, ROLES)?, terminal, list);
                Ok(())
            }
            Self::Show { name, remote } => {
                show_response(&Api::open(&remote)?.get(&format!("{ROLES}{name}"))?, terminal, role);
                Ok(())
            }
            Self::Permissions { remote } => {
                show_response(&all(&Api::open(&remote)?, "/api/v1/permissions/")?, terminal, permissions);
                Ok(())
            }
            Self::Create(create) => create.run(terminal),
            Self::Edit(edit) => edit.run(terminal),
            Self::Delete(delete) => delete.run(terminal),
        }
    }
}

impl CreateCommand {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let body = json!({
            "name": self.name,
            "description": self.description,
            "permissions": self.permissions,
            "is_default": self.default,
            "requires_second_factor": self.require_second_factor,
        });
        let created = Api::open(&self.remote)?.send_json(Method::POST, ROLES, &body)?;
        show_response(&created, terminal, role);
        terminal.hint(format!("`wharf user roles EMAIL --give {}` gives it to an account", self.name));
        Ok(())
    }
}

impl EditCommand {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let api = Api::open(&self.remote)?;
        let path = format!("{ROLES}{}", self.name);
        let mut body = Map::new();
        if !self.add.is_empty() || !self.remove.is_empty() {
            let present = api.get(&path)?;
            let mut permissions: BTreeSet<String> =
                members(&present, "permissions").filter_map(Value::as_str).map(str::to_owned).collect();
            if let Some(missing) = self.remove.iter().find(|name| !permissions.contains(*name)) {
                return Err(Failure::usage(format!("the role '{}' does not have {missing}", self.name)));
            }
            permissions.extend(self.add);
            permissions.retain(|name| !self.remove.contains(name));
            body.insert("permissions".to_owned(), json!(permissions));
        }
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        set("description", self.description.map(Value::from));
        set("is_default", self.default.map(Value::from));
        set("requires_second_factor", self.require_second_factor.map(Value::from));
        if body.is_empty() {
            return Err(Failure::usage("nothing to change")
                .next("Give --add, --remove, --description, --default or --require-second-factor."));
        }
        show_response(&api.send_json(Method::PATCH, &path, &Value::Object(body))?, terminal, role);
        Ok(())
    }
}

impl DeleteCommand {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let query = if self.take { "?take=true" } else { "" };
        let response = Api::open(&self.remote)?.delete(&format!("{ROLES}{}{query}", self.name))?;
        show_response(&response, terminal, |response, terminal| terminal.line(text(response, "message")));
        Ok(())
    }
}

/// The number of rows that one request asks for: the most that the host returns.
const PAGE: usize = 1000;

/// Returns a whole list, page by page.
pub(super) fn all(api: &Api, path: &str) -> Result<Value, Failure> {
    let mut data = Vec::new();
    loop {
        let mut page = api.get(&format!("{path}?skip={}&limit={PAGE}", data.len()))?;
        let rows = page.get_mut("data").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
        let is_last = rows.len() < PAGE;
        data.extend(rows);
        if is_last {
            return Ok(json!({ "count": data.len(), "data": data }));
        }
    }
}

fn is(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or_default()
}

/// Returns the permissions of a role as text.
fn permissions_of(role: &Value) -> String {
    if is(role, "has_all_permissions") { "all".to_owned() } else { words(role, "permissions") }
}

/// Returns the marks of a role.
fn marks(role: &Value) -> String {
    let marks = [("is_built_in", "built-in"), ("is_default", "default"), ("requires_second_factor", "second factor")];
    let marks: Vec<&str> = marks.iter().filter(|(member, _)| is(role, member)).map(|(_, mark)| *mark).collect();
    marks.join(", ")
}

fn list(response: &Value, terminal: &Terminal) {
    let rows: Vec<_> = members(response, "data")
        .map(|role| [text(role, "name"), marks(role), text(role, "description"), permissions_of(role)])
        .collect();
    terminal.table(["ROLE", "", "DESCRIPTION", "PERMISSIONS"], &rows);
}

fn role(role: &Value, terminal: &Terminal) {
    let row = |name: &str, value: String| {
        if !value.is_empty() {
            terminal.line(format!("  {name:<12}{value}"));
        }
    };
    terminal.line(format!("{} {}", terminal.bold(&text(role, "name")), terminal.faint(&text(role, "description"))));
    row("kind", marks(role));
    row("created", to_the_second(&text(role, "created_at")));
    row("accounts", text(role, "users"));
    row("permissions", permissions_of(role));
}

fn permissions(response: &Value, terminal: &Terminal) {
    let rows: Vec<_> = members(response, "data")
        .map(|permission| {
            let meaning = match is(permission, "is_declared") {
                true => text(permission, "meaning"),
                false => "(no effect: no plugin declares it any more)".to_owned(),
            };
            [text(permission, "name"), meaning, words(permission, "roles")]
        })
        .collect();
    terminal.table(["PERMISSION", "MEANS", "ROLES"], &rows);
}
