//! Parses the path of a route (`/`, `/{id}`, `/{id}/lines`) and returns its parameters in order.

use syn::{Error, LitStr, Result};

pub(crate) fn parameters(path: &LitStr) -> Result<Vec<String>> {
    let text = path.value();
    let refuse = |message: String| Err(Error::new(path.span(), message));
    let Some(rest) = text.strip_prefix('/') else {
        return refuse(format!("a path starts with `/`: `\"/{text}\"`"));
    };
    let mut parameters: Vec<String> = Vec::new();
    if rest.is_empty() {
        return Ok(parameters);
    }
    if rest.ends_with('/') {
        return refuse("leave out the last `/`: requests match with and without it".to_owned());
    }
    for segment in rest.split('/') {
        if segment.is_empty() {
            return refuse("the path has an empty segment (`//`)".to_owned());
        }
        match segment.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) {
            Some(name) => {
                if !is_name(name) {
                    return refuse(format!("`{{{name}}}` is not a parameter: write a name such as `{{id}}`"));
                }
                if parameters.iter().any(|known| known == name) {
                    return refuse(format!("the path has two parameters `{{{name}}}`"));
                }
                parameters.push(name.to_owned());
            }
            None if segment.contains(['{', '}', ':', '*']) => {
                return refuse(format!("a parameter fills a whole segment and is written `{{name}}`, not `{segment}`"));
            }
            None if !segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)) => {
                return refuse(format!("`{segment}` has characters other than letters, digits and `-._~`"));
            }
            None => {}
        }
    }
    Ok(parameters)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
