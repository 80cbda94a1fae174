//! The facts that the name of a file gives: its content type, and how long it may be cached.

use std::path::Path;

use axum::http::header::HeaderValue;

/// For a name with a hash of the content: another content has another name.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// A page names its scripts by hash. Revalidated each time, it never names the scripts of an older build.
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

/// The lengths of hashes in names: esbuild, Rollup and Vite write 8 characters, other tools up to 64.
const HASH_CHARACTERS: std::ops::RangeInclusive<usize> = 8..=64;
/// The length of a hash that has other characters than hexadecimal digits.
const SHORT_HASH: usize = 8;

/// Returns the content type of the first of these names that has a known ending. Texts are UTF-8.
pub(super) fn content_type(names: [&Path; 2]) -> HeaderValue {
    let guess = names.iter().find_map(|name| mime_guess::from_path(name).first_raw());
    match guess.unwrap_or("application/octet-stream") {
        "application/javascript" | "text/javascript" => HeaderValue::from_static("text/javascript; charset=utf-8"),
        text if text.starts_with("text/") && !text.contains("charset") => {
            HeaderValue::from_str(&format!("{text}; charset=utf-8")).unwrap_or(HeaderValue::from_static(text))
        }
        other => HeaderValue::from_static(other),
    }
}

/// Returns the value of `Cache-Control` for a file of this name and type, if it gets one.
pub(super) fn cache_control(name: &Path, content_type: &HeaderValue) -> Option<HeaderValue> {
    if content_type.as_bytes().starts_with(b"text/html") {
        return Some(REVALIDATE);
    }
    let name = name.file_name()?.to_str()?;
    has_hash(name).then_some(IMMUTABLE)
}

/// Returns whether a name contains a hash of the content, as build tools write it: `app-3f2a9c1b.js`,
/// `main.3f2a9c1b.chunk.css`, `index-BfI8Vq3k.js`, `chunk-5DPNTXIB.js.map`. A word, a date or a size is not taken for a
/// hash. A hash that could be a word is not recognized; such a file is revalidated.
fn has_hash(name: &str) -> bool {
    let mut parts: Vec<&str> = name.split('.').collect();
    // The ending is no hash.
    if parts.len() < 2 || parts.pop().is_none() {
        return false;
    }
    parts.iter().enumerate().any(|(index, part)| {
        // The first part is the name, so a hash in it follows a dash.
        let whole = (index > 0).then_some(*part);
        let after_dashes = part.match_indices('-').filter_map(|(dash, _)| part.get(dash + 1..));
        whole.into_iter().chain(after_dashes).any(is_hash)
    })
}

fn is_hash(text: &str) -> bool {
    if !HASH_CHARACTERS.contains(&text.len()) {
        return false;
    }
    let any = |is: fn(&u8) -> bool| text.as_bytes().iter().any(is);
    let all = |is: fn(&u8) -> bool| text.as_bytes().iter().all(is);
    let letters = any(u8::is_ascii_alphabetic);
    // `chapter2` is a word with a number.
    let word = text.trim_end_matches(|last: char| last.is_ascii_digit());
    let is_word = word.bytes().all(|byte| byte.is_ascii_alphabetic());
    if !letters || is_word {
        return false;
    }
    let hexadecimal = all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte));
    let base32 = all(|byte| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(byte));
    let base64 = all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        && any(u8::is_ascii_lowercase)
        && any(u8::is_ascii_uppercase)
        && any(u8::is_ascii_digit);
    hexadecimal || (text.len() == SHORT_HASH && (base32 || base64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_hash_are_recognized() {
        for name in [
            "app-3f2a9c1b.js",
            "app.3f2a9c1b.js",
            "main.3f2a9c1b.chunk.js",
            "main-3f2a9c1b.min.css",
            "app-3f2a9c1b.js.map",
            "index-BfI8Vq3k.js",
            "index-a-_8Vq3k.js",
            "chunk-5DPNTXIB.js",
            "logo.d41d8cd98f00b204e9800998ecf8427e.svg",
            "my-long-name-0a1b2c3d4e5f60718293.woff2",
        ] {
            assert!(has_hash(name), "{name}");
        }
    }

    #[test]
    fn words_dates_and_sizes_are_not_hashes() {
        for name in [
            "app.js",
            "app-settings.js",
            "components-UserList.js",
            "guide-Chapter2.png",
            "app-VERSION2.js",
            "jquery-3.6.0.min.js",
            "jquery-migrate.min.js",
            "report-20260101.pdf",
            "photo-2026-01-01T120000.jpg",
            "logo-1920x1080.png",
            "IMG-20240101WA0001.jpg",
            "3f2a9c1b.js",
            "3f2a9c1b",
            "app-3f2a9c1b",
            ".3f2a9c1b",
            "app-3f2a9c1.js",
            "de-facade.js",
            "ünï-cödé2026.js",
        ] {
            assert!(!has_hash(name), "{name}");
        }
    }

    #[test]
    fn texts_have_a_charset() {
        let of = |name: &str, plain: &str| content_type([Path::new(name), Path::new(plain)]);
        for (name, plain, expected) in [
            ("index.html", "index.html", "text/html; charset=utf-8"),
            ("app.js", "app.js", "text/javascript; charset=utf-8"),
            ("app.mjs", "app.mjs", "text/javascript; charset=utf-8"),
            ("a.css", "a.css", "text/css; charset=utf-8"),
            ("security.txt", "security.txt", "text/plain; charset=utf-8"),
            ("a.json", "a.json", "application/json"),
            ("a.wasm", "a.wasm", "application/wasm"),
            ("a.png", "a.png", "image/png"),
            ("latest", "app-1.css", "text/css; charset=utf-8"),
            ("data", "data", "application/octet-stream"),
        ] {
            assert_eq!(of(name, plain), expected, "{name}");
        }
    }

    #[test]
    fn pages_are_revalidated_and_hashed_names_are_immutable() {
        let of = |name: &str| cache_control(Path::new(name), &content_type([Path::new(name); 2]));
        assert_eq!(of("index.html"), Some(REVALIDATE));
        assert_eq!(of("page-3f2a9c1b.html"), Some(REVALIDATE));
        assert_eq!(of("assets/app-3f2a9c1b.js"), Some(IMMUTABLE));
        assert_eq!(of("assets-3f2a9c1b/app.js"), None);
    }
}
