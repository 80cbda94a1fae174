//! `wharf admin`: repairs accounts on the machine itself, while the host is stopped. A person who can write to the
//! database can do these things anyway, so it asks for no login. It writes an audit entry for each.

use std::io::BufRead as _;

use clap::{Args, Subcommand};
use serde_json::json;

use super::config::Settings;
use super::failure::Failure;
use super::terminal::Terminal;
use crate::app::machine::Machine;
use crate::auth::{PASSWORD_MAX_CHARS, PASSWORD_MIN_CHARS, SuperuserRepair};
use crate::config::Secret;
use crate::error::{Error, Result as HostResult, code};
use crate::initiator::Initiator;

/// Repair accounts while the host is stopped.
#[derive(Debug, Subcommand)]
pub(super) enum AdminCommand {
    /// Set a new password of an account, and end its sessions
    ResetPassword(AccountCommand),
    /// Create a superuser, or make an account a superuser with a new password
    CreateSuperuser(AccountCommand),
    /// Remove all second factors of an account, and end its sessions
    DisableMfa(FactorsCommand),
}

/// The account to repair.
#[derive(Debug, Args)]
pub(super) struct AccountCommand {
    /// The email address of the account
    email: String,
    /// Read the new password from standard input, instead of generating one
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    settings: Settings,
}

/// The account whose factors are removed.
#[derive(Debug, Args)]
pub(super) struct FactorsCommand {
    /// The email address of the account
    email: String,
    #[command(flatten)]
    settings: Settings,
}

/// A repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repair {
    ResetPassword,
    CreateSuperuser,
    DisableMfa,
}

/// The outcome of a repair.
struct Repaired {
    /// The outcome, for people.
    done: String,
    email: String,
    /// The generated password.
    password: Option<Secret>,
    /// A warning about the account.
    warning: Option<&'static str>,
}

impl AdminCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let of = |account: AccountCommand| (account.email, account.password_stdin, account.settings);
        let (repair, (email, password_stdin, settings)) = match self {
            Self::ResetPassword(account) => (Repair::ResetPassword, of(account)),
            Self::CreateSuperuser(account) => (Repair::CreateSuperuser, of(account)),
            Self::DisableMfa(FactorsCommand { email, settings }) => (Repair::DisableMfa, (email, false, settings)),
        };
        let (loaded, _) = settings.load()?;
        let password = if password_stdin { Some(read_password()?) } else { None };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(format!("the runtime cannot start: {error}")))?;
        let repaired = runtime.block_on(async {
            let machine = Machine::open(&loaded.config).await?;
            let repaired = match repair {
                Repair::ResetPassword => reset_password(&machine, &email, password).await,
                Repair::CreateSuperuser => create_superuser(&machine, &email, password).await,
                Repair::DisableMfa => disable_mfa(&machine, &email).await,
            };
            machine.close().await;
            repaired
        });
        show(&repaired.map_err(|error| failed(&error))?, terminal);
        Ok(())
    }
}

async fn reset_password(machine: &Machine, email: &str, password: Option<Secret>) -> HostResult<Repaired> {
    let (user, password) = machine.auth.repair_password(email, password, &Initiator::terminal()).await?;
    let warning = (!user.is_active).then_some("The account is deactivated, so it cannot sign in.");
    Ok(Repaired { done: "Set a new password and ended all sessions".to_owned(), email: user.email, password, warning })
}

async fn create_superuser(machine: &Machine, email: &str, password: Option<Secret>) -> HostResult<Repaired> {
    let is_given = password.is_some();
    let repaired = machine.auth.repair_superuser(email, password, &Initiator::terminal()).await?;
    let done = match (repaired.repair, is_given) {
        (SuperuserRepair::Created, _) => "Created a superuser",
        (SuperuserRepair::Promoted, _) => {
            "Made the account a superuser with a new password, and ended its sessions, API keys, passkeys, linked \
             identities and reset links"
        }
        (SuperuserRepair::Kept, true) => "The superuser is active and has the given password",
        (SuperuserRepair::Kept, false) => "The superuser is active; its password stays",
    };
    Ok(Repaired { done: done.to_owned(), email: repaired.user.email, password: repaired.generated, warning: None })
}

async fn disable_mfa(machine: &Machine, email: &str) -> HostResult<Repaired> {
    let user = machine.auth.repair_factors(email, &Initiator::terminal()).await?;
    let done = "Removed all second factors and ended all sessions".to_owned();
    Ok(Repaired { done, email: user.email, password: None, warning: None })
}

fn failed(error: &Error) -> Failure {
    let failure = Failure::host(error);
    match *error.code() == code::USER_NOT_FOUND {
        true => failure.next("Check the address. `wharf admin create-superuser EMAIL` creates an account."),
        false => failure,
    }
}

fn show(repaired: &Repaired, terminal: &Terminal) {
    let Repaired { done, email, password, warning } = repaired;
    if terminal.is_json() {
        let password = password.as_ref().map(Secret::expose);
        terminal.json(&json!({ "done": done, "email": email, "password": password, "warning": warning }));
        return;
    }
    terminal.line(format!("{}: {email}", terminal.good(done)));
    if let Some(password) = password {
        terminal.line(format!("  Password  {}  (shown only once)", password.expose()));
    }
    if let Some(warning) = warning {
        terminal.line(format!("  {}", terminal.warning(warning)));
    }
    terminal.hint("Start the host again with `wharf serve`");
}

fn read_password() -> Result<Secret, Failure> {
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.map_err(|error| Failure::new(format!("cannot read the password: {error}")))?;
    let password = line.trim_end_matches(['\r', '\n']);
    let chars = password.chars().count();
    if !(PASSWORD_MIN_CHARS as usize..=PASSWORD_MAX_CHARS as usize).contains(&chars) {
        let text = format!("the password must have {PASSWORD_MIN_CHARS} to {PASSWORD_MAX_CHARS} characters");
        return Err(Failure::usage(text));
    }
    Ok(Secret::new(password))
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::host(&error)
    }
}
