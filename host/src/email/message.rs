//! The content of mails: templates in the binary, rendered as HTML with escaping and as plain text.

use std::borrow::Cow;

use minijinja::{Environment, UndefinedBehavior, Value, context};

use crate::config::{Config, Secret};
use crate::error::{Error, Result};

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

/// The templates and the values that all of them share.
pub(super) struct Templates {
    environment: Environment<'static>,
    project_name: String,
    frontend_url: String,
    valid_hours: u64,
}

/// Embeds a template in both forms. The file name extension decides whether values are escaped.
macro_rules! embedded {
    ($($name:literal),*) => {
        [$(
            (concat!($name, ".html"), include_str!(concat!("templates/", $name, ".html"))),
            (concat!($name, ".txt"), include_str!(concat!("templates/", $name, ".txt"))),
        )*]
    };
}

impl Templates {
    pub(super) fn new(config: &Config) -> Result<Self> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        for (name, source) in embedded!("recovery", "new_account", "test") {
            environment.add_template(name, source).map_err(broken)?;
        }
        Ok(Self {
            environment,
            project_name: config.server.project_name.clone(),
            frontend_url: config.server.frontend_url.links().to_owned(),
            valid_hours: config.auth.reset_token_ttl.as_secs().div_ceil(3600).max(1),
        })
    }

    pub(super) fn recovery(&self, email: &str, token: &Secret) -> Result<Message> {
        let subject = format!("{} - Password recovery for user {email}", self.project_name);
        self.render("recovery", email, subject, &self.link(token))
    }

    pub(super) fn new_account(&self, email: &str, token: &Secret) -> Result<Message> {
        let subject = format!("{} - New account for user {email}", self.project_name);
        self.render("new_account", email, subject, &self.link(token))
    }

    pub(super) fn test(&self, email: &str) -> Result<Message> {
        self.render("test", email, format!("{} - Test email", self.project_name), &self.frontend_url)
    }

    fn link(&self, token: &Secret) -> String {
        format!("{}/reset-password?token={}", self.frontend_url, token.expose())
    }

    fn render(&self, name: &str, email: &str, subject: String, link: &str) -> Result<Message> {
        let fill = |ending: &str, link: Value| -> Result<String> {
            let template = self.environment.get_template(&format!("{name}.{ending}")).map_err(broken)?;
            let (project_name, username, valid_hours) = (&self.project_name, email, self.valid_hours);
            template.render(context! { project_name, username, valid_hours, link }).map_err(broken)
        };
        Ok(Message {
            to: email.to_owned(),
            subject,
            html: fill("html", Value::from_safe_string(attribute(link).into_owned()))?,
            text: fill("txt", Value::from(link))?,
        })
    }
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

    fn templates(project_name: &str, frontend_url: &str) -> Templates {
        let mut config = Config::default();
        config.server.project_name = project_name.to_owned();
        config.server.frontend_url = frontend_url.parse().unwrap();
        Templates::new(&config).unwrap()
    }

    #[test]
    fn the_link_is_an_unescaped_quoted_attribute() {
        let message =
            templates("Wharf", "https://app.example.com/").recovery("a@example.com", &Secret::new("Ab-_9")).unwrap();
        let link = "https://app.example.com/reset-password?token=Ab-_9";
        assert_eq!(message.html.matches(&format!("href=\"{link}\"")).count(), 2);
        let after = message.html.split("/reset-password?token=").nth(1).unwrap();
        assert_eq!(after.split('"').next(), Some("Ab-_9"));
        assert!(message.text.contains(link));
        assert!(message.html.contains("48 hours") && message.text.contains("48 hours"));
        assert_eq!(message.subject, "Wharf - Password recovery for user a@example.com");
    }

    #[test]
    fn names_and_addresses_are_escaped() {
        let evil = templates("<script>alert(1)</script>", "https://app.example.com/\"><b>&");
        for message in [
            evil.recovery("o'<i>@example.com", &Secret::new("t")).unwrap(),
            evil.new_account("o'<i>@example.com", &Secret::new("t")).unwrap(),
            evil.test("o'<i>@example.com").unwrap(),
        ] {
            for tag in ["<script", "<i>", "<b>", "com/\""] {
                assert!(!message.html.contains(tag), "{tag} in {}", message.html);
            }
            assert!(message.text.contains("<script>"), "plain text is not escaped");
        }
    }

    #[test]
    fn the_mail_for_a_new_account_has_a_link_and_a_test_mail_has_none() {
        let templates = templates("Wharf", "http://localhost:5173");
        let message = templates.new_account("a@example.com", &Secret::new("tok")).unwrap();
        assert_eq!(message.subject, "Wharf - New account for user a@example.com");
        assert!(message.html.contains("href=\"http://localhost:5173/reset-password?token=tok\""));
        let message = templates.test("a@example.com").unwrap();
        assert_eq!(message.subject, "Wharf - Test email");
        assert!(!message.html.contains("href"));
    }
}
