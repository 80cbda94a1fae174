//! The URL of a PostgreSQL database. Owns its syntax, which is that of libpq
//! (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>), and the check that it names a
//! server. Errors never contain the URL, because it may contain a password.

use std::borrow::Cow;

use url::Url;

/// Stands in a URL for a host that only the parameter `host` names. The parameter has priority.
const PLACEHOLDER: &str = "localhost";

/// Parses a URL. If its host is only in the parameter `host`, as in `postgres://user@/database?host=/run/postgresql`, the
/// result has a placeholder in front of the path: libpq allows a user without a host, and the standard of URLs does not.
///
/// # Errors
/// The reason why it is not the URL of a PostgreSQL database.
pub(crate) fn parse(text: &str) -> Result<Url, String> {
    let text = text.trim();
    let url = with_host(text);
    let has_placeholder = matches!(url, Cow::Owned(_));
    let url = Url::parse(&url).map_err(|error| format!("is not a URL ({error})"))?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(format!("has the scheme {:?}", url.scheme()));
    }
    let named = url.host_str().is_some_and(|host| !host.is_empty()) && !has_placeholder;
    if !named && host_parameter(&url).is_none() {
        return Err("names no host".to_owned());
    }
    Ok(url)
}

/// Returns the host, or the directory of a socket. `None` means that the URL names none.
pub(crate) fn host(url: &Url) -> Option<Cow<'_, str>> {
    let percent_decoded = |host| percent_encoding::percent_decode_str(host).decode_utf8_lossy();
    host_parameter(url).or_else(|| url.host_str().map(percent_decoded)).filter(|host| !host.is_empty())
}

/// Returns whether the URL has this password.
pub(crate) fn has_password(url: &Url, password: &str) -> bool {
    url.password() == Some(password) || url.query_pairs().any(|(name, value)| name == "password" && value == password)
}

fn host_parameter(url: &Url) -> Option<Cow<'_, str>> {
    let is_host = |name: &str| matches!(name, "host" | "hostaddr");
    url.query_pairs().filter(|(name, value)| is_host(name) && !value.is_empty()).map(|(_, value)| value).last()
}

/// Adds the placeholder if the part before the path has a user or a port and no host.
fn with_host(text: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = text.split_once("://") else { return text.into() };
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, server) = match authority.rsplit_once('@') {
        Some((user, server)) => (format!("{user}@"), server),
        None => (String::new(), authority),
    };
    match authority.is_empty() || !(server.is_empty() || server.starts_with(':')) {
        true => text.into(),
        false => format!("{scheme}://{user}{PLACEHOLDER}{server}{tail}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_libpq_are_accepted() {
        for (text, expected) in [
            ("postgres://u:p@db.example.com:5433/app", "db.example.com"),
            ("postgresql://u:p@/app?host=/run/postgresql", "/run/postgresql"),
            ("postgres://u:p@:5433/app?host=/run/postgresql&sslmode=disable", "/run/postgresql"),
            ("postgres:///app?host=/run/postgresql&user=u", "/run/postgresql"),
            ("postgres://u@/app?host=db.example.com", "db.example.com"),
            ("postgres://u@%2Frun%2Fpostgresql/app", "/run/postgresql"),
            ("postgres://u@here/app?host=there", "there"),
            ("postgres://u:p%40ss@[::1]/app", "[::1]"),
            (" postgres://u@/app?hostaddr=127.0.0.1 ", "127.0.0.1"),
            ("postgres://u:a@b@/app?host=/run", "/run"),
        ] {
            let url = parse(text).unwrap_or_else(|reason| panic!("{text} {reason}"));
            assert_eq!(host(&url).as_deref(), Some(expected), "{text}");
        }
        let url = parse("postgres://u:p@:5433/app?host=/run").unwrap();
        assert_eq!((url.username(), url.password(), url.port(), url.path()), ("u", Some("p"), Some(5433), "/app"));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "hunter2",
            "mysql://u:hunter2@h/d",
            "host=/run user=hunter2",
            "postgres:///hunter2",
            "postgres://u:hunter2@/d",
            "postgres://u:hunter2@/d?host=",
            "postgres://:5432/hunter2",
            "postgres://",
        ] {
            let reason = parse(text).unwrap_err();
            assert!(!reason.contains("hunter2"), "{reason}");
        }
    }

    #[test]
    fn a_password_is_found_in_both_places() {
        for text in [
            "postgres://u:changethis@h/d",
            "postgres://h/d?user=u&password=changethis",
            "postgres://u:changethis@/?host=h",
        ] {
            assert!(has_password(&parse(text).unwrap(), "changethis"), "{text}");
        }
        assert!(!has_password(&parse("postgres://changethis@h/changethis").unwrap(), "changethis"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(postgres://)?\\PC{0,40}") {
            if let Ok(url) = parse(&text) {
                let _ = host(&url);
            }
        }
    }
}
