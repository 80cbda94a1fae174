//! The command line. Owns arguments, output and exit codes; the work is done by `app` (`wharf serve`) or, through the
//! operator API, by a running host. Only this module prints.

#![allow(clippy::result_large_err, reason = "a failure ends the process, so its size costs nothing")]

mod account;
mod admin;
mod api;
mod audit;
mod banner;
mod compile;
mod config;
mod credentials;
mod email;
mod events;
mod failure;
mod jobs;
mod key;
mod mail;
mod plugin;
mod queue;
mod role;
mod schedules;
mod serve;
mod session;
mod signing_keys;
mod task;
mod terminal;
mod user;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::terminal::Terminal;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused or failed
  2  wrong usage or configuration

WHARF_URL replaces --url, and WHARF_TOKEN (a token or an API key) replaces the login of `wharf login`.
Settings of the host come from wharf.toml, WHARF_* and flags; `wharf config show` lists them.";

/// A backend in one binary whose business routes are sandboxed WebAssembly components
#[derive(Debug, Parser)]
#[command(name = "wharf", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    /// Write results and errors as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the host
    Serve(serve::ServeCommand),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// List, preview and write the templates of mails
    #[command(subcommand)]
    Email(email::EmailCommand),
    /// Sign in to a host and store the login
    Login(account::LoginCommand),
    /// Delete the stored login of a host
    Logout(account::LogoutCommand),
    /// Create, list and revoke API keys
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// List and rotate the keys that sign access tokens
    #[command(subcommand)]
    Keys(signing_keys::SigningKeysCommand),
    /// List and end sessions
    #[command(subcommand)]
    Session(session::SessionCommand),
    /// Build, deploy and operate plugins
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// List and repair the deliveries of events
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// List, stop and repair the jobs of plugins
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// List, pause and run the schedules of plugins
    #[command(subcommand)]
    Schedules(schedules::SchedulesCommand),
    /// List and repair the mails that wait or were given up
    #[command(subcommand)]
    Mail(mail::MailCommand),
    /// Read, export and verify the audit log
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Repair accounts on the machine itself, while the host is stopped
    #[command(subcommand)]
    Admin(admin::AdminCommand),
    /// List, create and change accounts, and give them roles
    #[command(subcommand)]
    User(user::UserCommand),
    /// List, create and change roles and their permissions
    #[command(subcommand)]
    Role(role::RoleCommand),
    /// Compile a component within resource limits; run by the host
    #[command(name = crate::plugin::compile::program::COMMAND, hide = true)]
    Compile(compile::CompileCommand),
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let terminal = Terminal::new(cli.json);
    let done = match cli.command {
        Command::Serve(serve) => serve.run(&terminal),
        Command::Config(config) => config.run(&terminal),
        Command::Email(email) => email.run(&terminal),
        Command::Login(login) => login.run(&terminal),
        Command::Logout(logout) => logout.run(&terminal),
        Command::Key(key) => key.run(&terminal),
        Command::Keys(keys) => keys.run(&terminal),
        Command::Session(session) => session.run(&terminal),
        Command::Plugin(plugin) => plugin.run(&terminal),
        Command::Events(events) => events.run(&terminal),
        Command::Jobs(jobs) => jobs.run(&terminal),
        Command::Schedules(schedules) => schedules.run(&terminal),
        Command::Mail(mail) => mail.run(&terminal),
        Command::Audit(audit) => audit.run(&terminal),
        Command::Admin(admin) => admin.run(&terminal),
        Command::User(user) => user.run(&terminal),
        Command::Role(role) => role.run(&terminal),
        Command::Compile(compile) => return compile.run(&terminal),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal.fail(&failure);
            failure.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
