//! Checks that several kinds of values share. Each returns the checked value, or what is wrong with the text.

use url::Url;

/// Refuses a text without a visible character, and removes the blanks around any other.
pub(super) fn filled(text: &str) -> Result<&str, String> {
    let text = text.trim();
    if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text) }
}

/// Refuses control characters, which the parser of URLs would remove without a word.
pub(super) fn uncontrolled(text: &str) -> Result<&str, String> {
    if text.chars().any(char::is_control) { Err("contains a control character".to_owned()) } else { Ok(text) }
}

/// Parses a URL with one of the schemes.
pub(super) fn parse_url(text: &str, schemes: &[&str]) -> Result<Url, String> {
    let url = Url::parse(filled(text)?).map_err(|error| format!("is not a URL ({error})"))?;
    if schemes.contains(&url.scheme()) { Ok(url) } else { Err(format!("has the scheme {:?}", url.scheme())) }
}
