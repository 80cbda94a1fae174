//! Looks for the few parts of a request head that the response to a request with an invalid head needs: the method, the
//! length of the request line, and the `Origin`. Keeps one line at most, so that it costs a connection little.

use axum::http::HeaderValue;

/// The longest line that is kept. The request line of a URL that is too long is longer; its length is counted only.
const MAX_LINE: usize = 2048;

/// The part of a head that has arrived.
#[derive(Debug, Default)]
pub(super) struct HeadScan {
    /// The beginning of the current line.
    line: Vec<u8>,
    line_bytes: usize,
    request_line_bytes: usize,
    /// Whether the request line begins with a method.
    has_method: bool,
    is_head: bool,
    origin: Option<HeaderValue>,
    /// Whether a header announces a body.
    has_body: bool,
    /// Whether the empty line that ends the head has arrived.
    is_complete: bool,
}

impl HeadScan {
    /// Reads the next bytes of the head, and returns the bytes after it.
    pub(super) fn read<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let mut rest = bytes;
        // A body is not searched for line ends.
        while !self.is_complete && !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
            let (part, after) = rest.split_at(end);
            self.line_bytes = self.line_bytes.saturating_add(part.len());
            let room = MAX_LINE - self.line.len().min(MAX_LINE);
            self.line.extend_from_slice(part.get(..part.len().min(room)).unwrap_or_default());
            if part.ends_with(b"\n") {
                self.end_line();
            }
            rest = after;
        }
        rest
    }

    fn end_line(&mut self) {
        let line = self.line.trim_ascii_end();
        // Empty lines before the request line are allowed (RFC 9112, section 2.2).
        if self.request_line_bytes == 0 {
            if !line.is_empty() {
                self.request_line_bytes = self.line_bytes;
                self.is_head = line.starts_with(b"HEAD ");
                self.has_method = begins_with_method(line);
            }
        } else if line.is_empty() {
            self.is_complete = true;
        } else if self.line_bytes <= MAX_LINE
            && let Some(value) = value_of(line, "origin:")
        {
            self.origin = HeaderValue::from_bytes(value.trim_ascii()).ok();
        }
        self.has_body |= ["content-length:", "transfer-encoding:"].iter().any(|name| value_of(line, name).is_some());
        self.line.clear();
        self.line_bytes = 0;
    }

    /// Returns the number of bytes of the request line that have arrived.
    pub(super) fn request_line_bytes(&self) -> usize {
        if self.request_line_bytes == 0 { self.line_bytes } else { self.request_line_bytes }
    }

    /// Returns whether the method is HEAD.
    pub(super) fn is_head(&self) -> bool {
        self.is_head || (self.request_line_bytes == 0 && self.line.starts_with(b"HEAD "))
    }

    /// Returns whether the head begins with a method. If not, the client speaks another protocol, such as TLS.
    pub(super) fn has_method(&self) -> bool {
        self.has_method || (self.request_line_bytes == 0 && begins_with_method(&self.line))
    }

    /// Returns whether a header announces a body.
    pub(super) fn has_body(&self) -> bool {
        self.has_body
    }

    /// Returns the `Origin`, if it has arrived.
    pub(super) fn origin(&self) -> Option<&HeaderValue> {
        self.origin.as_ref()
    }

    /// Returns whether the whole head has arrived.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }
}

/// Returns whether a line begins with a token (RFC 9110, section 5.6.2) and nothing but a blank follows it.
fn begins_with_method(line: &[u8]) -> bool {
    let method = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !method.is_empty() && method.iter().all(is_token)
}

/// Returns the value of a header line if it has the name, which is given with its colon and in lower case.
fn value_of<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name.as_bytes()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_in_any_pieces() {
        let url = "x".repeat(3 * MAX_LINE);
        let head = format!(
            "\r\nHEAD /{url} HTTP/1.1\r\nHost: x\r\nORIGIN:\thttp://a \r\nx: {url}\r\n\r\norigin: http://b\r\n"
        );
        for size in [1, 7, 1000, head.len()] {
            let mut scan = HeadScan::default();
            for piece in head.as_bytes().chunks(size) {
                scan.read(piece);
                assert!(scan.line.len() <= MAX_LINE);
            }
            assert!(scan.is_complete() && scan.is_head(), "{size}");
            assert_eq!(scan.origin().unwrap(), "http://a");
            assert_eq!(scan.request_line_bytes(), url.len() + "HEAD / HTTP/1.1\r\n".len());
        }
        let mut scan = HeadScan::default();
        scan.read(b"HEAD /never-ending");
        assert!(scan.is_head() && !scan.is_complete() && scan.request_line_bytes() == 18);
    }

    #[test]
    fn the_bytes_after_a_head_are_left() {
        let mut scan = HeadScan::default();
        assert_eq!(scan.read(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /b"), b"GET /b");
        assert_eq!(scan.read(b"more"), b"more");
        assert!(scan.has_method() && !scan.has_body());
        assert_eq!(scan.read(b""), b"");
        for header in ["Content-Length: 1", "TRANSFER-ENCODING:chunked"] {
            let mut scan = HeadScan::default();
            scan.read(format!("POST / HTTP/1.1\r\n{header}\r\n").as_bytes());
            assert!(scan.has_body() && !scan.is_complete(), "{header}");
        }
    }

    #[test]
    fn another_protocol_begins_with_no_method() {
        for (bytes, expected) in [
            (&b"\x16\x03\x01\x02\x00\x01"[..], false),
            (b"", false),
            (b"(x) /", false),
            (b"GE", true),
            (b"\r\nGET /\r\n", true),
        ] {
            let mut scan = HeadScan::default();
            scan.read(bytes);
            assert_eq!(scan.has_method(), expected, "{bytes:?}");
        }
    }
}
