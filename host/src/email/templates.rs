//! The templates of mails: those in the binary, and those of the operator that replace them. Owns the names of templates,
//! the values that each one gets, and the pages that links lead to. Renders HTML with escaping, and plain text.
//!
//! Each mail has three templates: `NAME.subject.txt`, `NAME.txt` and `NAME.html`. The HTML of all mails extends
//! `layout.html`. An operator's template is rendered with sample values when it is loaded, so that an error in it ends the
//! start and never appears when a mail is sent.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use minijinja::{Environment, UndefinedBehavior, Value};

use super::credential_change::CredentialChange;
use crate::config::{Config, Secret};
use crate::error::{Error, Result};

/// The size of the largest template of an operator in bytes.
const MAX_TEMPLATE_BYTES: u64 = 256 * 1024;

/// The most characters of a subject line. RFC 5322 allows 998 bytes in a line.
const MAX_SUBJECT_CHARS: usize = 200;

/// The token in the link of a preview.
const SAMPLE_TOKEN: &str = "SAMPLE-TOKEN";

/// A mail that is ready to be sent. It can contain a working link, so it has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The address of the recipient.
    pub to: String,
    /// The subject line.
    pub subject: String,
    /// The body as HTML.
    pub html: String,
    /// The body as plain text.
    pub text: String,
}

/// The page of the frontend that a mail links to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// None.
    None,
    /// A page.
    Page(&'static str),
    /// A page with a token that works once.
    Token(&'static str),
}

/// Declares the mails: the only list of their templates.
macro_rules! mails {
    ($($variant:ident $name:literal, $link:expr, $meaning:literal;)*) => {
        /// A kind of mail.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Template {
            $(#[doc = $meaning] $variant,)*
        }

        impl Template {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Returns the name, which is also the name of its files without the extensions.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Returns the occasion of the mail, as one sentence for people.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $meaning,)*
                }
            }

            fn link(self) -> Link {
                match self {
                    $(Self::$variant => $link,)*
                }
            }
        }

        /// The files of the templates in the binary.
        const BUILT_IN: &[(&str, &str)] = &[
            ("layout.html", include_str!("templates/layout.html")),
            $(
                (concat!($name, ".subject.txt"), include_str!(concat!("templates/", $name, ".subject.txt"))),
                (concat!($name, ".txt"), include_str!(concat!("templates/", $name, ".txt"))),
                (concat!($name, ".html"), include_str!(concat!("templates/", $name, ".html"))),
            )*
        ];
    };
}

mails! {
    Recovery "recovery", Link::Token("/reset-password"), "Sets a new password.";
    NewAccount "new_account", Link::Token("/reset-password"), "Sets the first password of an account of an operator.";
    Invitation "invitation", Link::Token("/reset-password"), "Accepts an invitation by setting a password.";
    Verification "verification", Link::Token("/verify-email"), "Verifies the address of an account.";
    AccountExists "account_exists", Link::Page("/login"), "Tells the owner of an account that somebody tried to use its address.";
    AddressChange "address_change", Link::Token("/verify-email"), "Confirms a new address, at the new address.";
    AddressChanged "address_changed", Link::None, "Announces a new address, at the old address.";
    CredentialChanged "credential_changed", Link::None, "Tells the owner of an account that a password, a second factor or an identity was changed.";
    Test "test", Link::None, "Tests the delivery.";
}

/// The values of one mail.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    /// The recipient.
    pub(super) to: &'a str,
    /// The address of the account.
    pub(super) username: &'a str,
    /// The token of the link.
    pub(super) token: Option<&'a Secret>,
    /// The new address of an account whose address was changed.
    pub(super) new_address: Option<&'a str>,
    /// The change of an account that its owner learns.
    pub(super) change: Option<CredentialChange>,
}

impl<'a> Values<'a> {
    /// Creates the values of a mail to the address of its account.
    pub(super) fn of(address: &'a str, token: Option<&'a Secret>) -> Self {
        Self { to: address, username: address, token, new_address: None, change: None }
    }
}

/// The templates and the values that all of them share.
pub struct Templates {
    environment: Environment<'static>,
    /// The files of the operator that replace templates.
    replaced: Vec<String>,
    project_name: String,
    frontend_url: String,
    reset_ttl: Duration,
    invitation_ttl: Duration,
    verification_ttl: Duration,
}

impl Templates {
    /// Loads the templates, and renders each one with sample values.
    ///
    /// # Errors
    /// A file in `email.templates_dir` has an unknown name, cannot be read or has an error. The text names the file.
    pub fn new(config: &Config) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        for (name, source) in BUILT_IN {
            environment.add_template(name, source).map_err(broken)?;
        }
        let mut replaced = Vec::new();
        if let Some(directory) = &config.email.templates_dir {
            for (name, source) in read_directory(directory)? {
                environment.add_template_owned(name.clone(), source).map_err(broken)?;
                replaced.push(name);
            }
        }
        let templates = Self {
            environment,
            replaced,
            project_name: config.server.project_name.clone(),
            frontend_url: config.server.frontend_url.links().to_owned(),
            reset_ttl: config.auth.reset_token_ttl,
            invitation_ttl: config.auth.invitation_ttl,
            verification_ttl: config.auth.verification_ttl,
        };
        for template in Template::ALL {
            let message = templates.preview(*template)?;
            let link = templates.link(*template, Some(&Secret::new(SAMPLE_TOKEN)));
            if link.is_some_and(|link| !message.text.contains(&link) || !message.html.contains(&*attribute(&link))) {
                let name = template.as_str();
                return Err(Error::internal(format!(
                    "email.templates_dir: {name}.txt or {name}.html has no {{{{ link }}}}"
                )));
            }
        }
        Ok(templates)
    }

    /// Returns the names and the texts of the templates in the binary.
    pub fn built_in() -> impl Iterator<Item = (&'static str, &'static str)> {
        BUILT_IN.iter().copied()
    }

    /// Returns the files of the operator that replace templates of this mail.
    pub fn replaced(&self, template: Template) -> Vec<&str> {
        let own = |file: &&str| file.split('.').next() == Some(template.as_str());
        self.replaced.iter().map(String::as_str).filter(own).collect()
    }

    /// Renders a mail with sample values.
    ///
    /// # Errors
    /// A template has an error.
    pub fn preview(&self, template: Template) -> Result<Message> {
        let token = Secret::new(SAMPLE_TOKEN);
        let new_address = (template == Template::AddressChanged).then_some("jane.doe@example.com");
        let change = (template == Template::CredentialChanged).then_some(CredentialChange::PasswordSet);
        self.render(template, Values { new_address, change, ..Values::of("jane@example.com", Some(&token)) })
    }

    pub(super) fn render(&self, template: Template, values: Values<'_>) -> Result<Message> {
        let link = self.link(template, values.token);
        let fill = |ending: &str, link: Option<Value>| -> Result<String> {
            let file = self.environment.get_template(&format!("{}.{ending}", template.as_str())).map_err(broken)?;
            let mut names = BTreeMap::from([
                ("project_name", Value::from(self.project_name.as_str())),
                ("frontend_url", Value::from(self.frontend_url.as_str())),
                ("username", Value::from(values.username)),
            ]);
            names.extend(link.map(|link| ("link", link)));
            names.extend(self.valid_hours(template).map(|hours| ("valid_hours", Value::from(hours))));
            names.extend(values.new_address.map(|address| ("new_address", Value::from(address))));
            names.extend(values.change.map(|change| ("change", Value::from(change.sentence()))));
            names.extend(values.change.map(|change| ("change_name", Value::from(change.as_str()))));
            file.render(names).map_err(broken)
        };
        let text_link = || link.as_deref().map(Value::from);
        let html_link = link.as_deref().map(|link| Value::from_safe_string(attribute(link).into_owned()));
        Ok(Message {
            to: values.to.to_owned(),
            subject: one_line(&fill("subject.txt", text_link())?),
            html: fill("html", html_link)?,
            text: fill("txt", text_link())?,
        })
    }

    fn link(&self, template: Template, token: Option<&Secret>) -> Option<String> {
        let base = &self.frontend_url;
        match template.link() {
            Link::None => None,
            Link::Page(page) => Some(format!("{base}{page}")),
            Link::Token(page) => Some(format!("{base}{page}?token={}", token.map_or("", Secret::expose))),
        }
    }

    /// Returns the lifetime of the link in hours, rounded up.
    fn valid_hours(&self, template: Template) -> Option<u64> {
        let ttl = match template {
            Template::Recovery | Template::NewAccount => self.reset_ttl,
            Template::Invitation => self.invitation_ttl,
            Template::Verification | Template::AddressChange => self.verification_ttl,
            Template::AccountExists | Template::AddressChanged | Template::CredentialChanged | Template::Test => {
                return None;
            }
        };
        Some(ttl.as_secs().div_ceil(3600).max(1))
    }
}

/// Reads the templates of an operator, ordered by name. Names that begin with a dot are ignored: Kubernetes keeps its own
/// entries in a mounted directory.
fn read_directory(directory: &Path) -> Result<BTreeMap<String, String>> {
    let failed = |name: &str, error: std::io::Error| {
        Error::internal(format!("email.templates_dir: {} cannot be read", directory.join(name).display()))
            .with_source(error)
    };
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).map_err(|error| failed("", error))? {
        let name = entry.map_err(|error| failed("", error))?.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let refused = |reason: &str| Error::internal(format!("email.templates_dir: {name} {reason}"));
        if !BUILT_IN.iter().any(|(known, _)| *known == name) {
            return Err(refused("is not the name of a template; `wharf email export` writes all of them"));
        }
        let file = std::fs::File::open(directory.join(&name)).map_err(|error| failed(&name, error))?;
        if !file.metadata().map_err(|error| failed(&name, error))?.is_file() {
            return Err(refused("is not a file"));
        }
        let mut source = String::new();
        file.take(MAX_TEMPLATE_BYTES + 1).read_to_string(&mut source).map_err(|error| failed(&name, error))?;
        if source.len() as u64 > MAX_TEMPLATE_BYTES {
            return Err(refused("is larger than 256 KiB"));
        }
        let source = source.strip_prefix('\u{feff}').unwrap_or(&source).to_owned();
        found.insert(name, source);
    }
    Ok(found)
}

/// Returns a text as one line without control characters, so that it can be a header.
fn one_line(text: &str) -> String {
    let line = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = line.collect::<Vec<_>>().join(" ");
    line.chars().take(MAX_SUBJECT_CHARS).collect()
}

/// Escapes a URL for a double-quoted attribute. Unlike the escaping of the templates, it keeps slashes, because clients
/// search the HTML for the path of the link.
fn attribute(url: &str) -> Cow<'_, str> {
    if !url.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(url);
    }
    let escaped = url.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    Cow::Owned(escaped.replace('"', "&quot;").replace('\'', "&#39;"))
}

fn broken(error: minijinja::Error) -> Error {
    Error::internal("a mail template").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(project_name: &str, frontend_url: &str) -> Config {
        let mut config = Config::default();
        config.server.project_name = project_name.to_owned();
        config.server.frontend_url = frontend_url.parse().unwrap();
        config
    }

    fn templates(project_name: &str, frontend_url: &str) -> Templates {
        Templates::new(&config(project_name, frontend_url)).unwrap()
    }

    /// Loads templates with the given files in the operator's directory.
    fn with_files(files: &[(&str, &str)]) -> Result<Templates> {
        let directory = tempfile::tempdir().unwrap();
        for (name, source) in files {
            std::fs::write(directory.path().join(name), source).unwrap();
        }
        let mut config = config("Wharf", "https://app.example.com");
        config.email.templates_dir = Some(directory.path().to_owned());
        Templates::new(&config)
    }

    fn message(templates: &Templates, template: Template, address: &str, token: &str) -> Message {
        templates.render(template, Values::of(address, Some(&Secret::new(token)))).unwrap()
    }

    #[test]
    fn the_link_is_an_unescaped_quoted_attribute() {
        let templates = templates("Wharf", "https://app.example.com/");
        let message = message(&templates, Template::Recovery, "a@example.com", "Ab-_9");
        let link = "https://app.example.com/reset-password?token=Ab-_9";
        assert_eq!(message.html.matches(&format!("href=\"{link}\"")).count(), 2);
        let after = message.html.split("/reset-password?token=").nth(1).unwrap();
        assert_eq!(after.split('"').next(), Some("Ab-_9"));
        assert!(message.text.contains(link));
        assert!(message.html.contains("48 hours") && message.text.contains("48 hours"));
        assert_eq!(message.subject, "Wharf - Password recovery for user a@example.com");
        assert_eq!(message.html.matches("Wharf - Password recovery").count(), 2, "title and heading");
    }

    #[test]
    fn names_and_addresses_are_escaped() {
        let evil = templates("<script>alert(1)</script>", "https://app.example.com/\"><b>&");
        for template in Template::ALL {
            let (new_address, change) = (Some("n<i>@example.com"), Some(CredentialChange::PasskeyAdded));
            let values = Values { new_address, change, ..Values::of("o'<i>@example.com", None) };
            let message = evil.render(*template, values).unwrap();
            for tag in ["<script", "<i>", "<b>", "com/\""] {
                assert!(!message.html.contains(tag), "{tag} in {}", message.html);
            }
            assert!(message.text.contains("<script>"), "plain text is not escaped");
        }
    }

    #[test]
    fn each_mail_has_the_link_of_its_occasion() {
        let templates = templates("Wharf", "http://localhost:5173");
        let link = |template| {
            let message = message(&templates, template, "a@example.com", "tok");
            let link = message.html.split("href=\"").nth(1)?.split('"').next()?.to_owned();
            Some(link.replace("http://localhost:5173", ""))
        };
        for (template, expected) in [
            (Template::NewAccount, Some("/reset-password?token=tok")),
            (Template::Invitation, Some("/reset-password?token=tok")),
            (Template::Verification, Some("/verify-email?token=tok")),
            (Template::AddressChange, Some("/verify-email?token=tok")),
            (Template::AccountExists, Some("/login")),
            (Template::Test, None),
        ] {
            assert_eq!(link(template).as_deref(), expected, "{}", template.as_str());
        }
        let message = message(&templates, Template::NewAccount, "a@example.com", "tok");
        assert_eq!(message.subject, "Wharf - New account for user a@example.com");
        assert_eq!(templates.preview(Template::Test).unwrap().subject, "Wharf - Test email");
        assert!(templates.preview(Template::Invitation).unwrap().text.contains("168 hours"));
    }

    #[test]
    fn a_template_of_the_operator_replaces_that_of_the_host() {
        let layout = "<main>{% block title %}{% endblock %}|{% block content %}{% endblock %}</main>";
        let text = "\u{feff}Bonjour {{ username }} : {{ link }}";
        let templates = with_files(&[
            ("layout.html", layout),
            ("recovery.txt", text),
            ("recovery.subject.txt", "Salut\r\n{{ username }}\u{7}\n"),
            (".hidden", "{{"),
        ])
        .unwrap();
        let message = message(&templates, Template::Recovery, "a@example.com", "tok");
        assert_eq!(message.text, "Bonjour a@example.com : https://app.example.com/reset-password?token=tok");
        assert_eq!(message.subject, "Salut a@example.com", "a subject is one line");
        assert!(message.html.starts_with("<main>Wharf - Password recovery|"), "{}", message.html);
        assert_eq!(templates.replaced(Template::Recovery), ["recovery.subject.txt", "recovery.txt"]);
        assert!(templates.replaced(Template::Test).is_empty());
    }

    #[test]
    fn a_wrong_template_is_refused_when_it_is_loaded() {
        for (name, source, reason) in [
            ("recovry.txt", "x", "recovry.txt is not the name of a template"),
            ("recovery.txt", "{{ link }} {{ lnik }}", "recovery.txt:1"),
            ("recovery.txt", "\n{% if %}", "recovery.txt:2"),
            ("recovery.txt", "no link", "has no {{ link }}"),
            ("test.txt", "{{ link }}", "test.txt:1"),
            ("test.txt", &"x".repeat(300_000), "test.txt is larger than 256 KiB"),
        ] {
            let error = with_files(&[(name, source)]).err().expect(reason);
            assert!(error.report().contains(reason), "{reason} in {}", error.report());
        }
        let mut config = config("Wharf", "https://app.example.com");
        config.email.templates_dir = Some("/nowhere/at/all".into());
        assert!(Templates::new(&config).err().unwrap().report().contains("/nowhere/at/all"));
    }
}
