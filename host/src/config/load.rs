//! Fills the settings: defaults ← `wharf.toml` ← `WHARF_*` ← flags. Every section names its own keys, once; everything
//! that is wrong anywhere is reported together, so that an operator mends a configuration in one go.

mod plugins;

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::kind::{self, Kind};
use super::reader::Reader;
use super::{Auth, Config, Database, Email, Finding, Log, Plugins, Secret, Server, Setting, Sources};

/// A checked configuration and where each part of it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Each of them for `config show`, in the order of the sections.
    pub settings: Vec<Setting>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone)]
pub struct Refused(pub Vec<Finding>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|finding| writeln!(f, "{finding}"))
    }
}

impl std::error::Error for Refused {}

/// Reads and checks every setting.
///
/// # Errors
/// All that is wrong, at once.
pub fn load(sources: &Sources) -> Result<Loaded, Refused> {
    let mut reader = Reader::new(sources);
    let server = Server::read(&mut reader);
    let most = server.max_body_bytes;
    let config = Config {
        server,
        database: Database::read(&mut reader),
        auth: Auth::read(&mut reader),
        email: Email::read(&mut reader),
        plugins: Plugins::read(&mut reader, most),
        log: Log::read(&mut reader),
    };
    check_together(&config, &mut reader);
    let (settings, findings) = reader.finish();
    if findings.is_empty() { Ok(Loaded { config, settings }) } else { Err(Refused(findings)) }
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn duration(bounds: RangeInclusive<Duration>) -> Kind<Duration> {
    kind::duration(bounds)
}

impl Server {
    fn read(r: &mut Reader<'_>) -> Self {
        let d = Self::default();
        let wait = duration(SECOND..=HOUR);
        Self {
            listen: r.read("server.listen", "WHARF_LISTEN", &kind::socket_address(), d.listen),
            data_dir: r.read("server.data_dir", "WHARF_DATA_DIR", &kind::directory(), d.data_dir),
            development: r.read("server.development", "WHARF_DEVELOPMENT", &kind::boolean(), d.development),
            project_name: r.read("server.project_name", "WHARF_PROJECT_NAME", &kind::line(100), d.project_name),
            frontend_url: r.read("server.frontend_url", "WHARF_FRONTEND_URL", &kind::web_url(), d.frontend_url),
            static_dir: r.find("server.static_dir", "WHARF_STATIC_DIR", &kind::directory()),
            connections: r.read("server.connections", "WHARF_CONNECTIONS", &kind::count(1..=1_000_000), d.connections),
            max_body_bytes: r.read(
                "server.max_body_bytes",
                "WHARF_MAX_BODY_BYTES",
                &kind::bytes(KIB..=GIB),
                d.max_body_bytes,
            ),
            body_memory_bytes: r.read(
                "server.body_memory_bytes",
                "WHARF_BODY_MEMORY_BYTES",
                &kind::bytes(MIB..=64 * GIB),
                d.body_memory_bytes,
            ),
            docs: r.read("server.docs", "WHARF_DOCS", &kind::boolean(), d.docs),
            shutdown_grace: r.read("server.shutdown_grace", "WHARF_SHUTDOWN_GRACE", &wait, d.shutdown_grace),
            start_timeout: r.read("server.start_timeout", "WHARF_START_TIMEOUT", &wait, d.start_timeout),
            header_timeout: r.read("server.header_timeout", "WHARF_HEADER_TIMEOUT", &wait, d.header_timeout),
            body_timeout: r.read("server.body_timeout", "WHARF_BODY_TIMEOUT", &wait, d.body_timeout),
            metrics_token: r.find("server.metrics_token", "WHARF_METRICS_TOKEN", &kind::token()),
        }
    }
}

impl Database {
    fn read(r: &mut Reader<'_>) -> Self {
        let d = Self::default();
        let url = kind::secret_url("postgres://user:password@host:5432/database", &["postgres", "postgresql"]);
        Self {
            url: r.find("database.url", "WHARF_DATABASE_URL", &url),
            connections: r.read(
                "database.connections",
                "WHARF_DATABASE_CONNECTIONS",
                &kind::count(1..=1000),
                d.connections,
            ),
            timeout: r.read("database.timeout", "WHARF_DATABASE_TIMEOUT", &duration(SECOND..=10 * MINUTE), d.timeout),
        }
    }
}

impl Auth {
    fn read(r: &mut Reader<'_>) -> Self {
        let d = Self::default();
        Self {
            access_token_ttl: r.read(
                "auth.access_token_ttl",
                "WHARF_ACCESS_TOKEN_TTL",
                &duration(SECOND..=YEAR),
                d.access_token_ttl,
            ),
            refresh_token_ttl: r.read(
                "auth.refresh_token_ttl",
                "WHARF_REFRESH_TOKEN_TTL",
                &duration(SECOND..=10 * YEAR),
                d.refresh_token_ttl,
            ),
            reset_token_ttl: r.read(
                "auth.reset_token_ttl",
                "WHARF_RESET_TOKEN_TTL",
                &duration(SECOND..=30 * DAY),
                d.reset_token_ttl,
            ),
            superuser_email: r.find("auth.superuser_email", "WHARF_SUPERUSER_EMAIL", &kind::email_address()),
            superuser_password: r.find("auth.superuser_password", "WHARF_SUPERUSER_PASSWORD", &kind::password()),
        }
    }
}

impl Email {
    fn read(r: &mut Reader<'_>) -> Self {
        let accepted = "smtp://user:password@host:587, smtps://…:465 or smtp://…:25?tls=none";
        Self {
            smtp_url: r.find("email.smtp_url", "WHARF_SMTP_URL", &kind::secret_url(accepted, &["smtp", "smtps"])),
            from: r.find("email.from", "WHARF_EMAIL_FROM", &kind::email_address()),
        }
    }
}

impl Log {
    fn read(r: &mut Reader<'_>) -> Self {
        Self {
            format: r.read("log.format", "WHARF_LOG_FORMAT", &kind::log_format(), Self::default().format),
            filter: r.find("log.filter", "WHARF_LOG", &kind::log_filter()),
        }
    }
}

/// What no key can know alone. Such a finding stands at the key that was set.
fn check_together(config: &Config, r: &mut Reader<'_>) {
    let auth = &config.auth;
    if auth.refresh_token_ttl < auth.access_token_ttl {
        let key = "auth.refresh_token_ttl";
        r.refuse(key, r.origin(key), "is shorter than auth.access_token_ttl; a session must outlive its tokens");
    }
    if config.email.smtp_url.is_some() && config.email.from.is_none() {
        let text = "is set and email.from (WHARF_EMAIL_FROM) is not; mail needs a sender";
        r.refuse("email.smtp_url", r.origin("email.smtp_url"), text);
    }
    let plugins = &config.plugins;
    let largest = config.server.max_body_bytes.max(plugins.request_bytes).max(plugins.upload_bytes);
    // Half of it is for requests, and one body has three quarters of that at the most.
    let needed = largest.saturating_mul(8).div_ceil(3);
    if config.server.body_memory_bytes < needed {
        let key = "server.body_memory_bytes";
        let text = format!("has no room for the largest body that is taken, {largest} bytes; it takes {needed}");
        r.refuse(key, r.origin(key), text);
    }
    // Keys that cannot be read are a finding already.
    if plugins.require_signed && plugins.trusted_keys.is_empty() && !r.is_refused("plugins.trusted_keys") {
        let text =
            "is true and plugins.trusted_keys (WHARF_PLUGIN_TRUSTED_KEYS) names no key; nothing could be deployed";
        r.refuse("plugins.require_signed", r.origin("plugins.require_signed"), text);
    }
    if !config.server.development {
        let text = "is the well-known \"changethis\"; choose another outside development";
        if auth.superuser_password.as_ref().is_some_and(|password| password.expose() == WELL_KNOWN_PASSWORD) {
            r.refuse("auth.superuser_password", r.origin("auth.superuser_password"), text);
        }
        if config.database.url.as_ref().is_some_and(has_well_known_password) {
            r.refuse("database.url", r.origin("database.url"), format!("has a password that {text}"));
        }
    }
}

/// What the reference's example configuration has, and so what half the internet has tried.
const WELL_KNOWN_PASSWORD: &str = "changethis";

fn has_well_known_password(url: &Secret) -> bool {
    url::Url::parse(url.expose()).is_ok_and(|url| url.password() == Some(WELL_KNOWN_PASSWORD))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Flag;

    fn with(file: &str, environment: &[(&str, &str)], flags: Vec<Flag>) -> Result<Loaded, String> {
        let mut sources = Sources::default();
        sources.add_file(Path::new("wharf.toml"), file);
        sources.add_environment(environment.iter().map(|(name, value)| (name.into(), value.into())), &["WHARF_URL"]);
        sources.add_flags(flags);
        load(&sources).map_err(|refused| refused.to_string())
    }

    #[test]
    fn a_later_source_wins_and_show_says_which() {
        let file = "[server]\nproject_name = \"file\"\nlisten = \"127.0.0.1:1\"\nmax_body_bytes = 0x1000\n";
        let flags = vec![Flag { key: "server.listen", name: "--listen", value: "127.0.0.1:3".into() }];
        let environment = [("WHARF_LISTEN", "127.0.0.1:2"), ("WHARF_PROJECT_NAME", ""), ("WHARF_URL", "x")];
        let loaded = with(file, &environment, flags).unwrap();
        assert_eq!(loaded.config.server.listen.port(), 3);
        assert_eq!(loaded.config.server.project_name, "file", "an empty variable is unset");
        assert_eq!(loaded.config.server.max_body_bytes, 4096);
        let origin = |key: &str| loaded.settings.iter().find(|s| s.key == key).unwrap().origin.to_string();
        assert_eq!(origin("server.listen"), "--listen");
        assert_eq!(origin("server.project_name"), "wharf.toml:2");
        assert_eq!(origin("server.docs"), "default");
    }

    #[test]
    fn everything_wrong_is_said_at_once_and_no_secret_is() {
        let file = "listen = 1\n[server]\nlisten = \"here\"\nproject_name = 5\ndocs = [1]\ndata_dri = \"x\"\n[severs]\na = 1\n[sever]\n";
        let environment = [
            ("WHARF_ACCESS_TOKEN_TTL", "0s"),
            ("WHARF_DATABASE_URL", "mysql://root:hunter2@db/x"),
            ("WHARF_SUPERUSER_PASSWORD", "hunter2"),
            ("WHARF_SUPERUSER_EMAIL", "nobody"),
            ("WHARF_LISTN", "x"),
            ("WHARF_BANANA", "x"),
            ("WHARF_FRONTEND_URL", "ftp://me:hunter2@x.org"),
            ("WHARF_PORT", "tcp://10.0.0.1:80"),
        ];
        let text = with(file, &environment, Vec::new()).unwrap_err();
        for part in [
            "wharf.toml:1: unknown key \"listen\"; did you mean \"server.listen\"?",
            "wharf.toml:3: server.listen = \"here\": is not an address with a port; accepted: an IP address",
            "wharf.toml:4: server.project_name must be written as text, in quotes",
            "wharf.toml:5: server.docs is a TOML array; accepted: true or false",
            "wharf.toml:6: unknown key \"server.data_dri\"; did you mean \"server.data_dir\"?",
            "wharf.toml:7: unknown section \"severs\"; did you mean \"server\"?",
            "wharf.toml:9: unknown section \"sever\"",
            "WHARF_ACCESS_TOKEN_TTL: auth.access_token_ttl = \"0s\": is too small; accepted: a duration from 1s",
            "WHARF_DATABASE_URL: database.url has the scheme \"mysql\"",
            "WHARF_SUPERUSER_PASSWORD: auth.superuser_password has 7 characters",
            "WHARF_SUPERUSER_EMAIL: auth.superuser_email = \"nobody\": is not an email address",
            "WHARF_LISTN: is no setting of Wharf's; did you mean \"WHARF_LISTEN\"?",
            "WHARF_BANANA: is no setting of Wharf's\n",
            "WHARF_FRONTEND_URL: server.frontend_url has the scheme \"ftp\"",
        ] {
            assert!(text.contains(part), "{part}\nis not in\n{text}");
        }
        assert!(!text.contains("hunter2") && !text.contains("WHARF_PORT"), "{text}");
        assert_eq!(text.lines().count(), 14, "{text}");
    }

    #[test]
    fn settings_that_do_not_go_together_are_refused() {
        let text = with(
            "[email]\nsmtp_url = \"smtp://mail\"\n[auth]\naccess_token_ttl = \"2d\"\nrefresh_token_ttl = \"1d\"\n\
             superuser_password = \"changethis\"\n[database]\nurl = \"postgres://u:changethis@h/d\"",
            &[],
            Vec::new(),
        )
        .unwrap_err();
        assert_eq!(text.lines().count(), 4, "{text}");
        let development = [("WHARF_DEVELOPMENT", "true"), ("WHARF_SUPERUSER_PASSWORD", "changethis")];
        assert!(with("", &development, Vec::new()).is_ok());
    }

    const KEY: &str = "wharf-ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    const OTHER: &str = "wharf-ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE";

    #[test]
    fn trusted_keys_are_a_list_in_the_file_and_a_line_elsewhere() {
        let file =
            format!("[plugins]\ntrusted_keys = [\n  \"release={KEY}\",\n  \"{OTHER}\",\n]\nrequire_signed = true\n");
        let loaded = with(&file, &[], Vec::new()).unwrap();
        let keys: Vec<_> = loaded.config.plugins.trusted_keys.iter().map(ToString::to_string).collect();
        assert_eq!(keys, [format!("release={KEY}"), OTHER.to_owned()]);
        let shown = loaded.settings.iter().find(|s| s.key == "plugins.trusted_keys").unwrap().value.clone().unwrap();
        let environment = [("WHARF_PLUGIN_TRUSTED_KEYS", shown.as_str()), ("WHARF_PLUGIN_SIGNATURE_MAX_AGE", "30d")];
        let again = with("", &environment, Vec::new()).unwrap().config.plugins;
        assert_eq!(again.trusted_keys, loaded.config.plugins.trusted_keys);
        assert_eq!((again.require_signed, again.signature_max_age), (false, Some(30 * DAY)));
        assert_eq!(with("[plugins]\ntrusted_keys = []", &[], Vec::new()).unwrap().config.plugins.trusted_keys, []);
    }

    #[test]
    fn every_key_that_is_none_is_told() {
        let file = format!(
            "[plugins]\ntrusted_keys = [\"wharf-ed25519:short\", \"a={KEY}\", \"a={OTHER}\", \"b={KEY}\", \"two words={OTHER}\", \"hello\"]\nrequire_signed = true\n"
        );
        let text = with(&file, &[], Vec::new()).unwrap_err();
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in [
            "wharf.toml:2: plugins.trusted_keys",
            "key 1 has not the length of a key; was all of it copied?",
            "key 3 has the name of another key",
            "key 4 stands twice",
            "key 5 has a name that is not 1 to 64 letters",
            "key 6 does not begin with wharf-ed25519:",
        ] {
            assert!(text.contains(part), "{part}\nis not in\n{text}");
        }
        let text = with("[plugins]\ntrusted_keys = [1]\n", &[], Vec::new()).unwrap_err();
        assert!(text.contains("plugins.trusted_keys is a TOML array; accepted: "), "{text}");
    }

    #[test]
    fn signatures_cannot_be_required_of_nobody() {
        for file in ["", "[plugins]\ntrusted_keys = []"] {
            let text = with(file, &[("WHARF_PLUGIN_REQUIRE_SIGNED", "true")], Vec::new()).unwrap_err();
            assert_eq!(text.lines().count(), 1, "{text}");
            let part = "WHARF_PLUGIN_REQUIRE_SIGNED: plugins.require_signed is true and plugins.trusted_keys \
                        (WHARF_PLUGIN_TRUSTED_KEYS) names no key";
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn the_defaults_are_within_their_own_bounds() {
        let shown = with("", &[], Vec::new()).unwrap().settings;
        let environment: Vec<_> = shown.iter().filter_map(|s| s.value.as_deref().map(|value| (s.env, value))).collect();
        let again = with("", &environment, Vec::new()).unwrap();
        assert!(shown.iter().zip(&again.settings).all(|(left, right)| left.value == right.value));
    }

    #[test]
    fn malformed_toml_is_reported_by_line() {
        let text = with("[server]\nlisten = \n= 3\n", &[], Vec::new()).unwrap_err();
        assert!(text.contains("wharf.toml:2: is not valid TOML"), "{text}");
    }

    proptest! {
        #[test]
        fn no_file_panics(text in "\\PC*") {
            let _ = with(&text, &[], Vec::new());
        }

        #[test]
        fn no_value_panics(key in 0_usize..40, value in "\\PC{0,40}|[0-9a-zA-Z:/.@\" =\\[\\]{}]{0,40}", bare: bool) {
            let keys: Vec<_> = with("", &[], Vec::new()).unwrap().settings.iter().map(|s| (s.key, s.env)).collect();
            let (key, env) = keys[key % keys.len()];
            let _ = with(&if bare { format!("{key} = {value}") } else { format!("{key} = {value:?}") }, &[], Vec::new());
            let _ = with("", &[(env, &value)], Vec::new());
        }
    }
}
