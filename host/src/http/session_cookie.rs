//! Cookies: those that hold the tokens of a session for a frontend that asks for them, and the one that holds the state
//! of a sign-in at an issuer. Owns their names, attributes and form. `browser_rules` decides which requests they count
//! in.
//!
//! The prefix `__Host-` makes browsers refuse a cookie that another host or an unencrypted page tries to set. Browsers
//! treat `http://localhost` as encrypted. No script reads the cookies (`HttpOnly`), no plugin receives them
//! (`http::plugin_call`), and no other site sends them with anything but a visit (`SameSite=Lax`).

use std::time::Duration;

use axum::http::header::{COOKIE, HeaderMap, HeaderValue};

use crate::auth::IssuedTokens;
use crate::error::{Error, Result};

/// The access token of a session.
pub(super) const SESSION: &str = "__Host-wharf-session";
/// The refresh token of a session.
const REFRESH: &str = "__Host-wharf-refresh";
/// The state of a sign-in at an issuer.
const SIGN_IN: &str = "__Host-wharf-sign-in";

/// Returns the access token in the cookie of a request.
pub(super) fn access_token(headers: &HeaderMap) -> Option<&str> {
    read(headers, SESSION)
}

/// Returns the refresh token in the cookie of a request.
pub(super) fn refresh_token(headers: &HeaderMap) -> Option<&str> {
    read(headers, REFRESH)
}

/// Returns the state of a sign-in at an issuer.
pub(super) fn sign_in(headers: &HeaderMap) -> Option<&str> {
    read(headers, SIGN_IN)
}

/// Returns the cookies that hold the tokens of a session. They end with the tokens.
pub(super) fn of_tokens(tokens: &IssuedTokens, refresh_lifetime: Duration) -> Result<[HeaderValue; 2]> {
    Ok([
        set(SESSION, tokens.access_token.expose(), tokens.expires_in)?,
        set(REFRESH, tokens.refresh_token.expose(), refresh_lifetime)?,
    ])
}

/// Returns the cookie that holds the state of a sign-in at an issuer.
pub(super) fn of_sign_in(state: &str, lifetime: Duration) -> Result<HeaderValue> {
    set(SIGN_IN, state, lifetime)
}

/// Returns the cookies that end those of a session.
pub(super) fn ended_session() -> Result<[HeaderValue; 2]> {
    Ok([set(SESSION, "", Duration::ZERO)?, set(REFRESH, "", Duration::ZERO)?])
}

/// Returns the cookie that ends that of a sign-in.
pub(super) fn ended_sign_in() -> Result<HeaderValue> {
    set(SIGN_IN, "", Duration::ZERO)
}

fn set(name: &str, value: &str, lifetime: Duration) -> Result<HeaderValue> {
    let cookie = format!("{name}={value}; Max-Age={}; Path=/; Secure; HttpOnly; SameSite=Lax", lifetime.as_secs());
    let mut cookie = HeaderValue::from_str(&cookie)
        .map_err(|error| Error::internal("a token cannot stand in a cookie").with_source(error))?;
    cookie.set_sensitive(true);
    Ok(cookie)
}

/// Returns the value of a cookie. One that is there twice does not count, because nobody knows which of them was meant.
fn read<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    // A client may split the cookies into several headers (RFC 9113, section 8.2.3). Cookies of others on the same site
    // need not be ASCII, and must not hide this one. A blank beyond ASCII belongs to the name: to a browser, a name with
    // it has no prefix.
    let texts = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let pairs = texts.filter_map(|text| std::str::from_utf8(text).ok()?.trim_matches([' ', '\t']).split_once('='));
    let mut found = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value);
    found.next().filter(|value| !value.is_empty() && found.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (COOKIE, HeaderValue::from_bytes(value.as_bytes()).unwrap())).collect()
    }

    #[test]
    fn a_cookie_is_found_among_others_in_one_header_or_several() {
        for values in [
            &["__Host-wharf-session=abc"][..],
            &["a=b; __Host-wharf-session=abc;c=d"],
            &["a=b", "__Host-wharf-session=abc"],
            &["a=é; __Host-wharf-session=abc"],
        ] {
            assert_eq!(access_token(&headers(values)), Some("abc"), "{values:?}");
        }
        for values in [
            &[][..],
            &["__Host-wharf-session"],
            &["__Host-wharf-session="],
            &["wharf-session=abc"],
            &["__host-wharf-session=abc"],
            &["x__Host-wharf-session=abc"],
            &["\u{a0}__Host-wharf-session=abc"],
            &["__Host-wharf-session=abc; __Host-wharf-session=def"],
            &["__Host-wharf-session=abc", "__Host-wharf-session=abc"],
        ] {
            assert_eq!(access_token(&headers(values)), None, "{values:?}");
        }
    }

    #[test]
    fn every_cookie_has_the_attributes_that_its_prefix_requires() {
        let cookies = [of_sign_in("x", Duration::from_secs(9)).unwrap(), ended_sign_in().unwrap()];
        for cookie in cookies.into_iter().chain(ended_session().unwrap()) {
            let text = cookie.to_str().unwrap();
            assert!(text.starts_with("__Host-") && !text.contains("Domain"), "{text}");
            assert!(text.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"), "{text}");
        }
    }
}
