//! The media type of a body, as `Content-Type` names it. Owns the blanks and the empty parameters that RFC 9110 allows
//! around a semicolon (section 5.6.6) and that the parsers of the libraries refuse.

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;

/// A media type with its parameters, without blanks around the semicolons. Empty if a request names none.
pub(super) struct MediaType(String);

impl MediaType {
    /// Returns the media type that the headers name.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (mut in_quotes, mut escaped) = (false, false);
        let parts = text.split(|letter| {
            match letter {
                _ if escaped => escaped = false,
                '\\' if in_quotes => escaped = true,
                '"' => in_quotes = !in_quotes,
                _ => {}
            }
            letter == ';' && !in_quotes
        });
        Self(parts.map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(";"))
    }

    /// Returns the type without parameters, as it was written.
    pub(super) fn essence(&self) -> &str {
        self.0.split(';').next().unwrap_or_default()
    }

    /// Returns whether the body is JSON: `application/json`, or any `application` type with the suffix `+json`.
    pub(super) fn is_json(&self) -> bool {
        let Ok(kind) = self.0.parse::<mime::Mime>() else { return false };
        kind.type_() == mime::APPLICATION && (kind.subtype() == mime::JSON || kind.suffix() == Some(mime::JSON))
    }

    /// Returns whether the body is a multipart form or another multipart body.
    pub(super) fn is_multipart(&self) -> bool {
        self.essence().split('/').next().is_some_and(|kind| kind.eq_ignore_ascii_case("multipart"))
    }

    /// Returns the boundary of a multipart form.
    ///
    /// # Errors
    /// The body is no multipart form, or the boundary is missing.
    pub(super) fn boundary(&self) -> Result<String, multer::Error> {
        multer::parse_boundary(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of(text: &'static str) -> MediaType {
        MediaType::of(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(text))]))
    }

    #[test]
    fn blanks_and_empty_parameters_make_no_difference() {
        for text in [
            "application/json",
            "application/json ;charset=UTF-8",
            " application/json\t; ;charset=utf-8;",
            "Application/JSON;",
            "application/merge-patch+json ; a=\"b;c\"",
        ] {
            assert!(of(text).is_json(), "{text}");
        }
        for text in ["", ";", "text/json", "application/ json", "application /json", "nonsense", "application/jsonp"] {
            assert!(!of(text).is_json(), "{text}");
        }
        assert_eq!(of("text/plain ; a=b").essence(), "text/plain");
        for text in ["multipart/form-data; boundary=X", "multipart/form-data ;; boundary=\"X\" ;"] {
            assert_eq!(of(text).boundary().unwrap(), "X", "{text}");
            assert!(of(text).is_multipart());
        }
        assert_eq!(of(r#"multipart/form-data;a=";";boundary=X"#).boundary().unwrap(), "X");
        assert!(of("application/x-www-form-urlencoded; boundary=X").boundary().is_err());
    }
}
