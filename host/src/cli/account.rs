//! `wharf login` and `wharf logout`.

use std::io::BufRead as _;

use clap::Args;
use serde_json::json;

use super::api::{Api, Remote, SignedIn};
use super::credentials::{Credentials, StoredLogin};
use super::failure::Failure;
use super::terminal::Terminal;
use crate::config::Secret;

/// Sign in to a host and store the login.
#[derive(Debug, Args)]
pub(super) struct LoginCommand {
    /// The email address of the account; asked for if not given
    #[arg(long)]
    email: Option<String>,
    /// Read the password from standard input, and the code of the second factor from its next line
    #[arg(long, requires = "email")]
    password_stdin: bool,
    #[command(flatten)]
    remote: Remote,
}

impl LoginCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let api = Api::without_login(&self.remote.url)?;
        let credentials = Credentials::of_person()?;
        let email = match self.email {
            Some(email) => email,
            None => terminal.ask("Email")?,
        };
        let unreadable = |error| Failure::new(format!("cannot read the password: {error}"));
        let read_line = || {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).map_err(unreadable)?;
            Ok::<_, Failure>(line.trim_end_matches(['\r', '\n']).to_owned())
        };
        let password = match self.password_stdin {
            true => read_line()?,
            false => rpassword::prompt_password(format!("Password of {email}: "))
                .map_err(|error| unreadable(error).next("Without a terminal, use --password-stdin."))?,
        };
        let token = match api.sign_in(&email, &Secret::new(password))? {
            SignedIn::Token(token) => token,
            SignedIn::SecondFactor(challenge) => {
                let code = match self.password_stdin {
                    true => read_line()?,
                    false => terminal.ask("Code of your authenticator app, or a recovery code")?,
                };
                api.complete_sign_in(&challenge, &Secret::new(code))?
            }
        };
        credentials.store(api.url(), StoredLogin { email: email.clone(), access_token: token.expose().to_owned() })?;
        match terminal.is_json() {
            true => terminal.json(&json!({ "url": api.url(), "email": email })),
            false => terminal.line(format!("Signed in to {} as {email}", api.url())),
        }
        Ok(())
    }
}

/// Delete the stored login of a host.
#[derive(Debug, Args)]
pub(super) struct LogoutCommand {
    #[command(flatten)]
    remote: Remote,
}

impl LogoutCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let api = Api::without_login(&self.remote.url)?;
        let forgotten = Credentials::of_person()?.delete(api.url())?;
        match terminal.is_json() {
            true => terminal.json(&json!({ "url": api.url(), "forgotten": forgotten })),
            false if forgotten => terminal.line(format!("Deleted the login of {}", api.url())),
            false => terminal.line(format!("There was no login of {}", api.url())),
        }
        Ok(())
    }
}
