//! The names of plugins, permissions, topics, jobs and schedules: `[a-z][a-z0-9-]{0,39}`.

use syn::{Error, Ident, LitStr, Result};

pub(crate) fn checked_name(name: LitStr) -> Result<LitStr> {
    if is_name(&name.value()) {
        return Ok(name);
    }
    Err(Error::new(
        name.span(),
        "a name is a lower-case letter followed by up to 39 lower-case letters, digits and `-`",
    ))
}

pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.len() <= 40
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Returns the name of a function in this form: `send_summary` becomes `send-summary`.
pub(crate) fn name_of(function: &Ident) -> Result<LitStr> {
    let text = function.to_string().trim_start_matches("r#").replace('_', "-");
    if is_name(&text) {
        return Ok(LitStr::new(&text, function.span()));
    }
    Err(Error::new(
        function.span(),
        format!("`{text}` is not a name: write one such as `name = \"send-summary\"` in the attribute"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proc_macro2::Span;

    #[test]
    fn the_name_of_a_function_has_hyphens() {
        let name = |function: &str| name_of(&Ident::new(function, Span::call_site())).map(|name| name.value()).ok();
        assert_eq!(name("send_summary2").as_deref(), Some("send-summary2"));
        assert_eq!(name("_send"), None);
        assert_eq!(name("Send"), None);
        assert_eq!(name(&"s".repeat(41)), None);
    }
}
