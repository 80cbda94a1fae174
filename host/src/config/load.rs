//! Fills the settings: defaults ← `wharf.toml` ← `WHARF_*` ← flags. Reports everything that is wrong together, so that
//! an operator fixes a configuration in one go.

use std::fmt;

use super::reader::Reader;
use super::{
    Audit, Auth, Config, Database, Email, Finding, Issuer, Log, Plugins, Secret, Server, Setting, Sources, postgres_url,
};

/// A checked configuration with the origin of each setting.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Every setting for `config show`, in the order of the sections.
    pub settings: Vec<Setting>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone)]
pub struct InvalidConfig(pub Vec<Finding>);

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|finding| writeln!(f, "{finding}"))
    }
}

impl std::error::Error for InvalidConfig {}

/// Reads and checks every setting.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load(sources: &Sources) -> Result<Loaded, InvalidConfig> {
    let mut reader = Reader::new(sources);
    let server = Server::read(&mut reader, Server::default());
    let plugins = Plugins { request_bytes: server.max_body_bytes, ..Plugins::default() };
    let config = Config {
        server,
        database: Database::read(&mut reader, Database::default()),
        auth: Auth::read(&mut reader, Auth::default()),
        issuers: Issuer::read_all(&mut reader),
        email: Email::read(&mut reader, Email::default()),
        audit: Audit::read(&mut reader, Audit::default()),
        plugins: Plugins::read(&mut reader, plugins),
        log: Log::read(&mut reader, Log::default()),
    };
    check_together(&config, &mut reader);
    let (settings, findings) = reader.finish();
    if findings.is_empty() { Ok(Loaded { config, settings }) } else { Err(InvalidConfig(findings)) }
}

/// Checks rules that involve several settings. A finding names the setting that was set.
fn check_together(config: &Config, r: &mut Reader<'_>) {
    let auth = &config.auth;
    if auth.refresh_token_ttl < auth.access_token_ttl {
        let key = "auth.refresh_token_ttl";
        r.refuse(key, r.origin(key), "is shorter than auth.access_token_ttl; a session must outlive its tokens");
    }
    let least = auth.least_hash_memory();
    if auth.hash_memory_bytes < least {
        let key = "auth.hash_memory_bytes";
        let mib = least / (1024 * 1024);
        let text = format!("is too small for auth.hash_passes = {}; it needs {mib}MiB", auth.hash_passes);
        r.refuse(key, r.origin(key), text);
    }
    if config.email.smtp_url.is_some() && config.email.from.is_none() {
        let text = "is set and email.from (WHARF_EMAIL_FROM) is not; mail needs a sender";
        r.refuse("email.smtp_url", r.origin("email.smtp_url"), text);
    }
    if auth.verify_email && config.email.smtp_url.is_none() && !config.server.development {
        let text = "is true and email.smtp_url (WHARF_SMTP_URL) is not set; nobody could verify an address";
        r.refuse("auth.verify_email", r.origin("auth.verify_email"), text);
    }
    let plugins = &config.plugins;
    let largest = config.server.max_body_bytes.max(plugins.request_bytes).max(plugins.upload_bytes);
    // Half of the memory is for requests, and one body may use at most three quarters of that half.
    let needed = largest.saturating_mul(8).div_ceil(3);
    if config.server.body_memory_bytes < needed {
        let key = "server.body_memory_bytes";
        let text = format!("is too small for the largest accepted body, {largest} bytes; it needs {needed}");
        r.refuse(key, r.origin(key), text);
    }
    // Invalid keys are a finding already.
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

/// The password of a widely copied example configuration, which attackers try first.
const WELL_KNOWN_PASSWORD: &str = "changethis";

fn has_well_known_password(url: &Secret) -> bool {
    postgres_url::parse(url.expose()).is_ok_and(|url| postgres_url::has_password(&url, WELL_KNOWN_PASSWORD))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Flag;
    use crate::config::kind::DAY;

    fn with(file: &str, environment: &[(&str, &str)], flags: Vec<Flag>) -> Result<Loaded, String> {
        let mut sources = Sources::default();
        sources.add_file(Path::new("wharf.toml"), file);
        sources.add_environment(environment.iter().map(|(name, value)| (name.into(), value.into())), &["WHARF_URL"]);
        sources.add_flags(flags);
        load(&sources).map_err(|refused| refused.to_string())
    }

    #[test]
    fn a_later_source_wins_and_show_names_it() {
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
    fn all_findings_are_reported_at_once_without_secrets() {
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
            "WHARF_LISTN: is not a setting of Wharf; did you mean \"WHARF_LISTEN\"?",
            "WHARF_BANANA: is not a setting of Wharf\n",
            "WHARF_FRONTEND_URL: server.frontend_url has the scheme \"ftp\"",
        ] {
            assert!(text.contains(part), "{part}\nis not in\n{text}");
        }
        assert!(!text.contains("hunter2") && !text.contains("WHARF_PORT"), "{text}");
        assert_eq!(text.lines().count(), 14, "{text}");
    }

    #[test]
    fn one_line_ending_of_a_variable_is_no_part_of_it() {
        let environment = |password: &'static str| {
            let environment = [("WHARF_SUPERUSER_PASSWORD", password), ("WHARF_LISTEN", "127.0.0.1:2\n")];
            with("", &environment, Vec::new())
        };
        for password in ["correct horse", "correct horse\n", "correct horse\r\n"] {
            let config = environment(password).unwrap().config;
            assert_eq!(config.auth.superuser_password, Some(Secret::new("correct horse")), "{password:?}");
            assert_eq!(config.server.listen.port(), 2);
        }
        let shown = with("", &[("WHARF_PROJECT_NAME", "\n")], Vec::new()).unwrap();
        assert_eq!(shown.config.server.project_name, "Wharf", "an empty line is unset");
        for password in [
            "correct horse\n\n",
            "correct\nhorse",
            "correct\thorse",
            "correct horse\r",
            "correct\0horse",
            "\u{85}correct",
        ] {
            let text = environment(password).unwrap_err();
            assert_eq!(text.lines().count(), 1, "{text}");
            let part = "WHARF_SUPERUSER_PASSWORD: contains a control character";
            assert!(text.starts_with(part) && !text.contains("horse"), "{text}");
        }
        for file in ["[auth]\nsuperuser_password = \"correct\\thorse\"", "[database]\nurl = \"postgres://u:p\\tx@h/d\""]
        {
            let text = with(file, &[], Vec::new()).unwrap_err();
            assert!(text.contains("contains a control character"), "{text}");
        }
    }

    #[test]
    fn every_secret_can_be_in_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        for (name, content) in [
            ("password", &b"correct horse\n"[..]),
            ("token", &b"0123456789abcdef\r\n"[..]),
            ("database", &b"postgres://u:hunter2@h/d"[..]),
            ("mail", &b"smtp://u:hunter2@h\n"[..]),
            ("empty", &b"\n"[..]),
            ("lines", &b"hunter2\nhunter2\n"[..]),
            ("binary", &b"hunter2\xff"[..]),
            ("large", &[b'x'; 65 * 1024][..]),
        ] {
            std::fs::write(path(name), content).unwrap();
        }
        let of = |name: &'static str, file: &str| (name, path(file));
        let load = |environment: &[(&str, String)]| {
            let environment: Vec<(&str, &str)> =
                environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
            with("[email]\nfrom = \"a@example.com\"\n", &environment, Vec::new())
        };
        let loaded = load(&[
            of("WHARF_SUPERUSER_PASSWORD_FILE", "password"),
            of("WHARF_METRICS_TOKEN_FILE", "token"),
            of("WHARF_DATABASE_URL_FILE", "database"),
            of("WHARF_SMTP_URL_FILE", "mail"),
            // An empty variable is unset.
            ("WHARF_SMTP_URL", String::new()),
        ])
        .unwrap();
        let config = &loaded.config;
        for (secret, expected) in [
            (&config.auth.superuser_password, "correct horse"),
            (&config.server.metrics_token, "0123456789abcdef"),
            (&config.database.url, "postgres://u:hunter2@h/d"),
            (&config.email.smtp_url, "smtp://u:hunter2@h"),
        ] {
            assert_eq!(*secret, Some(Secret::new(expected)));
        }
        // Every setting that is a secret, and no other one.
        let secrets = loaded.settings.iter().filter(|s| s.value.as_deref() == Some("[redacted]"));
        assert!(secrets.clone().all(|s| s.origin.to_string() == format!("{}_FILE", s.env)));
        assert_eq!(secrets.count(), 4);

        let text = load(&[
            of("WHARF_SUPERUSER_PASSWORD_FILE", "empty"),
            of("WHARF_METRICS_TOKEN_FILE", "large"),
            of("WHARF_DATABASE_URL_FILE", "nowhere"),
            of("WHARF_SMTP_URL_FILE", "mail"),
            ("WHARF_SMTP_URL", "smtp://u:hunter2@h".to_owned()),
            of("WHARF_LISTEN_FILE", "password"),
        ])
        .unwrap_err();
        for part in [
            "WHARF_SUPERUSER_PASSWORD_FILE: auth.superuser_password is in ",
            "which is empty\n",
            "which is larger than 64 KiB; is it the right file?\n",
            "WHARF_DATABASE_URL_FILE: database.url is in ",
            "nowhere\", which cannot be read: No such file or directory",
            "WHARF_SMTP_URL_FILE: email.smtp_url and WHARF_SMTP_URL are both set; unset one of them\n",
            "WHARF_LISTEN_FILE: is not a setting of Wharf",
        ] {
            assert!(text.contains(part), "{part}\nis not in\n{text}");
        }
        assert_eq!(text.lines().count(), 5, "{text}");
        for (file, part) in
            [("lines", "contains a control character"), ("binary", "is not text in UTF-8"), ("", "cannot be read")]
        {
            let text = load(&[of("WHARF_SMTP_URL_FILE", file)]).unwrap_err();
            assert!(text.contains(part) && !text.contains("hunter2"), "{text}");
        }
        for (file, part) in [
            ("/dev/null", "is in \"/dev/null\", which cannot be read: it is not a regular file"),
            // The secret itself.
            ("smtp://u:hunter2@h", "email.smtp_url is in a file, but the variable names no file"),
        ] {
            let text = load(&[("WHARF_SMTP_URL_FILE", file.to_owned())]).unwrap_err();
            assert!(text.contains(part) && !text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
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

    #[test]
    fn a_password_hash_is_never_cheaper_than_recommended() {
        let cost = |memory: &'static str, passes: &'static str| {
            with("", &[("WHARF_HASH_MEMORY_BYTES", memory), ("WHARF_HASH_PASSES", passes)], Vec::new())
        };
        for (memory, passes) in [("46MiB", "1"), ("19MiB", "2"), ("12MiB", "3"), ("9MiB", "4"), ("7MiB", "5"), ("", "")]
        {
            assert!(cost(memory, passes).is_ok(), "{memory} {passes}");
        }
        for (memory, passes) in [("45MiB", "1"), ("18MiB", "2"), ("11MiB", "3"), ("8MiB", "4"), ("", "1")] {
            let text = cost(memory, passes).unwrap_err();
            let passes = format!("auth.hash_memory_bytes is too small for auth.hash_passes = {passes}; it needs ");
            assert!(text.contains(&passes), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }

    const KEY: &str = "wharf-ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    const OTHER: &str = "wharf-ed25519:Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE";

    #[test]
    fn trusted_keys_are_a_list_in_the_file_and_one_line_in_a_variable() {
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
    fn every_invalid_key_is_reported() {
        let file = format!(
            "[plugins]\ntrusted_keys = [\"wharf-ed25519:short\", \"a={KEY}\", \"a={OTHER}\", \"b={KEY}\", \"two words={OTHER}\", \"hello\"]\nrequire_signed = true\n"
        );
        let text = with(&file, &[], Vec::new()).unwrap_err();
        assert_eq!(text.lines().count(), 1, "{text}");
        for part in [
            "wharf.toml:2: plugins.trusted_keys",
            "key 1 does not have the length of a key; was all of it copied?",
            "key 3 has the name of another key",
            "key 4 is a duplicate",
            "key 5 has a name that is not 1 to 64 letters",
            "key 6 does not begin with wharf-ed25519:",
        ] {
            assert!(text.contains(part), "{part}\nis not in\n{text}");
        }
        let text = with("[plugins]\ntrusted_keys = [1]\n", &[], Vec::new()).unwrap_err();
        assert!(text.contains("plugins.trusted_keys is a TOML array; accepted: "), "{text}");
    }

    #[test]
    fn required_signatures_need_a_trusted_key() {
        for file in ["", "[plugins]\ntrusted_keys = []"] {
            let text = with(file, &[("WHARF_PLUGIN_REQUIRE_SIGNED", "true")], Vec::new()).unwrap_err();
            assert_eq!(text.lines().count(), 1, "{text}");
            let part = "WHARF_PLUGIN_REQUIRE_SIGNED: plugins.require_signed is true and plugins.trusted_keys \
                        (WHARF_PLUGIN_TRUSTED_KEYS) names no key";
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn verification_needs_a_mail_server() {
        let text = with("[auth]\nverify_email = true\n", &[], Vec::new()).unwrap_err();
        assert!(text.contains("wharf.toml:2: auth.verify_email is true and email.smtp_url"), "{text}");
        let server = [("WHARF_SMTP_URL", "smtp://mail.example.com"), ("WHARF_EMAIL_FROM", "a@example.com")];
        let auth = with("[auth]\nverify_email = true\nsignup = \"invite\"\n", &server, Vec::new()).unwrap().config.auth;
        assert_eq!((auth.verify_email, auth.signup), (true, crate::config::SignUp::Invite));
        assert!(with("[auth]\nsignup = \"closed\"\n", &[], Vec::new()).unwrap_err().contains("open, invite or off"));
    }

    #[test]
    fn the_defaults_are_within_their_own_ranges() {
        let shown = with("", &[], Vec::new()).unwrap().settings;
        let environment: Vec<_> =
            shown.iter().filter_map(|s| s.value.as_deref().map(|value| (&*s.env, value))).collect();
        let again = with("", &environment, Vec::new()).unwrap();
        assert!(shown.iter().zip(&again.settings).all(|(left, right)| left.value == right.value));
    }

    #[test]
    fn issuers_are_tables_in_the_file_or_variables_or_both() {
        let file = "[auth.issuers.google]\nurl = \"https://accounts.google.com\"\nclient_id = \"wharf\"\n\
                    scopes = [\"email\", \"groups\"]\n[auth.issuers.my-company]\nurl = \"https://id.example.com/\"\n";
        let environment = [
            ("WHARF_ISSUER_GOOGLE_CLIENT_SECRET", "hunter2"),
            ("WHARF_ISSUER_MY_COMPANY_CLIENT_ID", "app"),
            ("WHARF_ISSUER_MY_COMPANY_CREATE_ACCOUNTS", "false"),
            ("WHARF_ISSUER_LAB_URL", "http://127.0.0.1:9000/realms/lab"),
            ("WHARF_ISSUER_LAB_CLIENT_ID", "lab"),
        ];
        let loaded = with(file, &environment, Vec::new()).unwrap();
        let [google, lab, company] = loaded.config.issuers.as_slice() else { panic!("{:?}", loaded.config.issuers) };
        assert_eq!((google.name.as_str(), google.label.as_str()), ("google", "google"));
        assert_eq!(google.client_secret, Some(Secret::new("hunter2")));
        assert_eq!(google.scopes, ["email", "groups"]);
        assert_eq!((company.client_id.as_str(), company.create_accounts), ("app", Some(false)));
        assert_eq!((company.url.as_str(), company.scopes.len()), ("https://id.example.com/", 2));
        assert_eq!(lab.client_secret, None);
        let shown = loaded.settings.iter().find(|s| s.key == "auth.issuers.google.client_secret").unwrap();
        assert_eq!((shown.value.as_deref(), &*shown.env), (Some("[redacted]"), "WHARF_ISSUER_GOOGLE_CLIENT_SECRET"));
    }

    #[test]
    fn an_incomplete_or_unencrypted_issuer_is_refused() {
        let file = "[auth.issuers.a]\nurl = \"http://id.example.com\"\n[auth.issuers.B]\nurl = \"https://b.example\"\n\
                    [auth.issuers.c]\nclient_id = \"x\"\nurls = \"y\"\n";
        let text = with(file, &[("WHARF_ISSUER_D_SECRET", "hunter2")], Vec::new()).unwrap_err();
        for part in [
            "auth.issuers.a.url = \"http://id.example.com\": is not encrypted",
            "auth.issuers.a.client_id is not set (WHARF_ISSUER_A_CLIENT_ID)",
            "unknown key \"auth.issuers.B\"",
            "auth.issuers.c.url is not set (WHARF_ISSUER_C_URL)",
            "unknown key \"auth.issuers.c.urls\"",
            "WHARF_ISSUER_D_SECRET: is not a setting of Wharf",
        ] {
            assert!(text.contains(part), "{part}\nis not in\n{text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
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
        fn no_value_panics(key: usize, value in "\\PC{0,40}|[0-9a-zA-Z:/.@\" =\\[\\]{}]{0,40}", bare: bool) {
            let keys: Vec<_> = with("", &[], Vec::new()).unwrap().settings.iter().map(|s| (s.key.clone(), s.env.clone())).collect();
            let (key, env) = keys[key % keys.len()].clone();
            let _ = with(&if bare { format!("{key} = {value}") } else { format!("{key} = {value:?}") }, &[], Vec::new());
            let _ = with("", &[(&*env, &value)], Vec::new());
        }
    }
}
