//! The banner of `wharf serve`: the addresses of the host, its configuration, and the first superuser.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::terminal::Terminal;
use crate::app::App;
use crate::auth::NewSuperuser;
use crate::config::Config;
use crate::email::Delivery;
use crate::plugin::upload::Deployed;

/// The content of the banner.
pub(super) struct Banner<'a> {
    pub(super) config: &'a Config,
    pub(super) file: Option<&'a str>,
    pub(super) app: &'a App,
    pub(super) deployed: &'a [Deployed],
}

/// Prints the first superuser as soon as the account exists: a generated password is stored nowhere, and the deploys of the
/// start may fail or be interrupted. Programs get only a generated password; the log has the rest.
pub(super) fn show_first_superuser(app: &App, terminal: &Terminal, people: bool) {
    let Some(first) = app.first_superuser() else { return };
    let row = |name: &str, value: &str| terminal.line(format!("  {name:<16}{value}"));
    if people || first.generated_password.is_some() {
        row("First superuser", &first.email);
    }
    match &first.generated_password {
        Some(password) => row("Password", &format!("{}  (shown only once)", password.expose())),
        None if people => row("Password", "as configured"),
        None => {}
    }
}

impl Banner<'_> {
    /// Prints the banner for `people`. Programs find the address in the log.
    pub(super) fn show(&self, terminal: &Terminal, people: bool) {
        if people {
            self.greet(terminal);
            terminal.line(format!("\n  Try  {}\n", self.example()));
        }
    }

    /// Returns a command to try: a sign-in if the password is shown, else a health check.
    fn example(&self) -> String {
        let base = base_url(self.app.addr());
        match self.app.first_superuser() {
            Some(NewSuperuser { email, generated_password: Some(password) }) => {
                let password = password.expose();
                format!("curl {base}/api/v1/login/access-token -d username={email} -d password={password}")
            }
            _ => format!("curl {base}/api/v1/utils/health-check/"),
        }
    }

    fn greet(&self, terminal: &Terminal) {
        let Config { server, database, .. } = self.config;
        let base = base_url(self.app.addr());
        let row = |name: &str, value: &str| terminal.line(format!("  {name:<16}{value}"));
        terminal.line(format!("\n  {}\n", terminal.bold(&format!("Wharf {}", env!("CARGO_PKG_VERSION")))));
        row("API", &format!("{base}/api/v1"));
        if server.docs {
            row("Documentation", &format!("{base}/docs"));
        }
        row("Frontend", &server.frontend_url.to_string());
        if let Some(directory) = &server.static_dir {
            row("Static files", &format!("{} at {base}/", directory.display()));
        }
        let directory = std::path::absolute(&server.data_dir).unwrap_or_else(|_| server.data_dir.clone());
        row("Data", &directory.display().to_string());
        row("Database", &database.description());
        row("Configuration", self.file.unwrap_or("defaults, WHARF_* and flags"));
        row("Mail", &mail(Delivery::of(self.config), &base));
        for deployed in self.deployed {
            let record = &deployed.release.record;
            let outcome = match deployed {
                Deployed { gave_way: true, .. } => "kept as it was changed, see the warning in the log",
                Deployed { unchanged: true, .. } => "live already",
                _ => "deployed",
            };
            row("Plugin", &format!("{} at {}, release {} ({outcome})", record.plugin, record.mount, record.number));
        }
        if server.development {
            let text = "DEVELOPMENT MODE: /api/v1/private creates accounts for anybody. Block outside access.";
            terminal.line(format!("\n  {}", terminal.warning(text)));
        }
    }
}

/// Returns the way of mails.
fn mail(delivery: Delivery, base: &str) -> String {
    match delivery {
        Delivery::Smtp => "sent by SMTP".to_owned(),
        Delivery::Log => format!("shown at {base}/dev/mail, not sent (development without a mail server)"),
        Delivery::Off => "off: passwords cannot be reset until email.smtp_url and email.from are set".to_owned(),
    }
}

/// Returns a URL that works on this machine.
fn base_url(mut addr: SocketAddr) -> String {
    if addr.ip().is_unspecified() {
        addr.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    format!("http://{addr}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_shown_as_loopback() {
        assert_eq!(base_url("0.0.0.0:8000".parse().unwrap()), "http://127.0.0.1:8000");
    }

    #[test]
    fn a_developer_sees_where_the_mails_are() {
        let mut config = Config::default();
        let shown = |config: &Config| mail(Delivery::of(config), "http://127.0.0.1:8000");
        assert!(shown(&config).starts_with("off: "));
        config.server.development = true;
        assert!(shown(&config).starts_with("shown at http://127.0.0.1:8000/dev/mail, not sent"));
    }
}
