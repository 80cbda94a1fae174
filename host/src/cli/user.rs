//! `wharf user`: lists, creates, invites and deactivates accounts, and gives them roles, through the operator API.
//! Imports and exports accounts on the machine of the host.

mod transfer;

use std::collections::BTreeSet;
use std::io::BufRead as _;

use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use uuid::Uuid;

use self::transfer::{ExportCommand, ImportCommand};
use super::api::{Api, Method, Remote};
use super::failure::Failure;
use super::plugin::view::{members, show_response, text, to_the_second};
use super::terminal::Terminal;
use crate::config::Secret;
use crate::id::RoleName;

/// The operator API's path of accounts.
const USERS: &str = "/api/v1/users/";
/// The operator API's path of invitations.
const INVITE: &str = "/api/v1/users/invite";

/// List, create, invite and change accounts, and give them roles.
#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// List the accounts, newest first
    List(ListCommand),
    /// Show one account with its roles
    Show(NamedUser),
    /// Create an account
    Create(CreateCommand),
    /// Create an account without a password, and send a link to set one
    Invite(InviteCommand),
    /// Show, give and take the roles of an account
    Roles(RolesCommand),
    /// End the sessions of an account and refuse it from now on
    Deactivate(NamedUser),
    /// Admit a deactivated account again
    Activate(NamedUser),
    /// Add accounts with their hashes from JSON lines, on the machine of the host
    Import(ImportCommand),
    /// Write all accounts with their hashes as JSON lines, on the machine of the host
    Export(ExportCommand),
}

/// One account of a host.
#[derive(Debug, Args)]
pub(super) struct NamedUser {
    /// The email address or the id of the account
    user: String,
    #[command(flatten)]
    remote: Remote,
}

/// List the accounts.
#[derive(Debug, Args)]
pub(super) struct ListCommand {
    /// The number of accounts to skip
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: u32,
    /// The number of accounts to show
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    remote: Remote,
}

/// Create an account.
#[derive(Debug, Args)]
pub(super) struct CreateCommand {
    /// The email address
    email: String,
    /// The name of the person
    #[arg(long)]
    name: Option<String>,
    /// Roles in addition to the one that new accounts get
    #[arg(long = "role", value_name = "ROLE", value_delimiter = ',')]
    roles: Vec<RoleName>,
    /// Read the password from standard input; without it, the password is asked for
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    remote: Remote,
}

/// Invite a person.
#[derive(Debug, Args)]
pub(super) struct InviteCommand {
    /// The email address
    email: String,
    /// The name of the person
    #[arg(long)]
    name: Option<String>,
    /// Roles in addition to the one that new accounts get
    #[arg(long = "role", value_name = "ROLE", value_delimiter = ',')]
    roles: Vec<RoleName>,
    #[command(flatten)]
    remote: Remote,
}

/// Show, give and take the roles of an account.
#[derive(Debug, Args)]
pub(super) struct RolesCommand {
    /// The email address or the id of the account
    user: String,
    /// Give these roles
    #[arg(long, value_name = "ROLE", value_delimiter = ',')]
    give: Vec<RoleName>,
    /// Take these roles
    #[arg(long, value_name = "ROLE", value_delimiter = ',')]
    take: Vec<RoleName>,
    #[command(flatten)]
    remote: Remote,
}

impl UserCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(terminal),
            Self::Show(named) => named.show(terminal),
            Self::Create(create) => create.run(terminal),
            Self::Invite(invite) => invite.run(terminal),
            Self::Roles(roles) => roles.run(terminal),
            Self::Deactivate(named) => named.set_active(false, terminal),
            Self::Activate(named) => named.set_active(true, terminal),
            Self::Import(import) => import.run(terminal),
            Self::Export(export) => export.run(terminal),
        }
    }
}

/// Returns the account that an email address or an id names.
fn find(api: &Api, user: &str) -> Result<Value, Failure> {
    match user.parse::<Uuid>() {
        Ok(id) => api.get(&format!("{USERS}{id}")),
        Err(_) => find_by_address(api, user),
    }
}

/// Returns the id of the account that an email address or an id names. Only an address needs the permission to read
/// accounts.
pub(super) fn id_of(api: &Api, user: &str) -> Result<String, Failure> {
    match user.parse::<Uuid>() {
        Ok(id) => Ok(id.to_string()),
        Err(_) => Ok(text(&find_by_address(api, user)?, "id")),
    }
}

fn find_by_address(api: &Api, user: &str) -> Result<Value, Failure> {
    // Any other text would be a path of the API, such as `me`, or that of the list.
    if !user.contains('@') {
        return Err(Failure::usage(format!("{user:?} is neither an email address nor the id of an account"))
            .next("`wharf user list` shows both."));
    }
    let list = api.get(&format!("{USERS}?email={}", utf8_percent_encode(user, NON_ALPHANUMERIC)))?;
    let found = members(&list, "data").next().cloned();
    found.ok_or_else(|| {
        Failure::new(format!("no account has the address {user}")).next("`wharf user list` lists the accounts.")
    })
}

fn roles_path(account: &Value) -> String {
    format!("{USERS}{}/roles", utf8_percent_encode(&text(account, "id"), NON_ALPHANUMERIC))
}

fn role_names(response: &Value) -> BTreeSet<String> {
    members(response, "roles").filter_map(Value::as_str).map(str::to_owned).collect()
}

impl ListCommand {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let Self { skip, limit, remote } = self;
        let response = Api::open(&remote)?.get(&format!("{USERS}?skip={skip}&limit={limit}"))?;
        show_response(&response, terminal, |response, terminal| {
            let rows: Vec<_> = members(response, "data").map(row).collect();
            terminal.table(["EMAIL", "NAME", "STATE", "CREATED (UTC)", "ID"], &rows);
            let all = response.get("count").and_then(Value::as_u64).unwrap_or_default();
            let shown = u64::from(skip).saturating_add(u64::try_from(rows.len()).unwrap_or(u64::MAX));
            if all > shown {
                terminal.hint(format!("There are {all} accounts; --skip {shown} shows the next ones"));
            }
        });
        Ok(())
    }
}

fn state(account: &Value) -> String {
    let is = |name: &str| account.get(name).and_then(Value::as_bool).unwrap_or_default();
    let state = if is("is_active") { "active" } else { "inactive" };
    if is("is_superuser") { format!("{state}, superuser") } else { state.to_owned() }
}

fn row(account: &Value) -> [String; 5] {
    let created = to_the_second(&text(account, "created_at"));
    [text(account, "email"), text(account, "full_name"), state(account), created, text(account, "id")]
}

impl NamedUser {
    fn show(self, terminal: &Terminal) -> Result<(), Failure> {
        let api = Api::open(&self.remote)?;
        let mut account = find(&api, &self.user)?;
        let roles = api.get(&roles_path(&account))?;
        if let Some(members) = account.as_object_mut() {
            members.insert("roles".to_owned(), json!(role_names(&roles)));
        }
        show_response(&account, terminal, show);
        Ok(())
    }

    fn set_active(self, is_active: bool, terminal: &Terminal) -> Result<(), Failure> {
        let api = Api::open(&self.remote)?;
        let account = find(&api, &self.user)?;
        let path = format!("{USERS}{}", utf8_percent_encode(&text(&account, "id"), NON_ALPHANUMERIC));
        let account = api.send_json(Method::PATCH, &path, &json!({ "is_active": is_active }))?;
        let done = if is_active { "Activated" } else { "Deactivated" };
        show_response(&account, terminal, |account, terminal| {
            terminal.line(format!("{} {}", terminal.good(done), terminal.bold(&text(account, "email"))));
        });
        Ok(())
    }
}

fn show(account: &Value, terminal: &Terminal) {
    terminal.line(format!(
        "{} {}",
        terminal.bold(&text(account, "email")),
        terminal.faint(&text(account, "full_name"))
    ));
    let roles: Vec<String> = role_names(account).into_iter().collect();
    let roles = if roles.is_empty() { "none".to_owned() } else { roles.join(", ") };
    for (name, value) in [
        ("id", text(account, "id")),
        ("state", state(account)),
        ("created", to_the_second(&text(account, "created_at"))),
        ("roles", roles),
    ] {
        terminal.line(format!("  {name:<9}{value}"));
    }
}

impl CreateCommand {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let api = Api::open(&self.remote)?;
        let password = self.password(terminal)?;
        let body = json!({ "email": self.email, "full_name": self.name, "password": password.expose() });
        let mut account = api.send_json(Method::POST, USERS, &body)?;
        let mut roles = BTreeSet::new();
        // The account exists from here on, so a failure says what is left to do.
        let unfinished = |failure: Failure| {
            let given = self.roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let next = format!("The account exists; `wharf user roles {} --give {given}` tries again.", self.email);
            failure.next(next)
        };
        if !self.roles.is_empty() {
            let path = roles_path(&account);
            roles = role_names(&api.get(&path).map_err(unfinished)?);
            roles.extend(self.roles.iter().map(ToString::to_string));
            roles = role_names(&api.send_json(Method::PUT, &path, &json!({ "roles": roles })).map_err(unfinished)?);
        }
        if let (Some(members), false) = (account.as_object_mut(), roles.is_empty()) {
            members.insert("roles".to_owned(), json!(roles));
        }
        show_response(&account, terminal, |account, terminal| {
            let email = terminal.bold(&text(account, "email"));
            let with = if roles.is_empty() { String::new() } else { " with its roles".to_owned() };
            terminal.line(format!("{} {email}{with}", terminal.good("Created")));
        });
        terminal.hint(format!("`wharf user show {}` shows its roles", self.email));
        Ok(())
    }

    fn password(&self, terminal: &Terminal) -> Result<Secret, Failure> {
        let unreadable = |error| Failure::new(format!("cannot read the password: {error}"));
        if self.password_stdin {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).map_err(unreadable)?;
            return Ok(Secret::new(line.trim_end_matches(['\r', '\n'])));
        }
        if !terminal.can_ask() {
            return Err(Failure::usage("cannot ask for the password: there is no terminal")
                .next("Give it on standard input with --password-stdin."));
        }
        let ask = |question: String| rpassword::prompt_password(question).map_err(unreadable);
        let password = ask(format!("New password of {}: ", self.email))?;
        if ask("Repeat it: ".to_owned())? != password {
            return Err(Failure::usage("the passwords differ"));
        }
        Ok(Secret::new(password))
    }
}

impl InviteCommand {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let api = Api::open(&self.remote)?;
        let body = json!({ "email": self.email, "full_name": self.name, "roles": self.roles });
        let account = api.post_json(INVITE, &body)?;
        let missing = self.missing_roles(&api, &account);
        if !missing.is_empty() {
            let (email, missing) = (text(&account, "email"), missing.join(","));
            let text = format!("{email} was invited before and got another mail, but not the roles {missing}");
            let next = format!(
                "`wharf user roles {email} --give {missing}` gives them. Then invite {email} again: a new role ends the \
                 link of the mail."
            );
            return Err(Failure::new(text).next(next));
        }
        show_response(&account, terminal, |account, terminal| {
            terminal.line(format!("{} {}", terminal.good("Invited"), terminal.bold(&text(account, "email"))));
        });
        terminal.hint("The mail has a link to set a password. Repeat the command to send another one");
        Ok(())
    }

    /// Returns the roles of the command that the account does not have: somebody who was invited before keeps theirs.
    /// Returns none if the caller may not read roles.
    fn missing_roles(&self, api: &Api, account: &Value) -> Vec<&str> {
        if self.roles.is_empty() {
            return Vec::new();
        }
        let Ok(response) = api.get(&roles_path(account)) else { return Vec::new() };
        let held = role_names(&response);
        self.roles.iter().map(RoleName::as_str).filter(|role| !held.contains(*role)).collect()
    }
}

impl RolesCommand {
    fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let api = Api::open(&self.remote)?;
        let path = roles_path(&find(&api, &self.user)?);
        let mut response = api.get(&path)?;
        if !self.give.is_empty() || !self.take.is_empty() {
            let mut roles = role_names(&response);
            if let Some(missing) = self.take.iter().find(|name| !roles.contains(name.as_str())) {
                return Err(Failure::usage(format!("{} does not have the role '{missing}'", self.user)));
            }
            roles.extend(self.give.iter().map(ToString::to_string));
            roles.retain(|role| self.take.iter().all(|taken| taken.as_str() != role));
            response = api.send_json(Method::PUT, &path, &json!({ "roles": roles }))?;
        }
        show_response(&response, terminal, |response, terminal| {
            let roles: Vec<String> = role_names(response).into_iter().collect();
            terminal.line(if roles.is_empty() { "No roles".to_owned() } else { roles.join("\n") });
        });
        Ok(())
    }
}
