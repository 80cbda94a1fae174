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
    is_head: bool,
    origin: Option<HeaderValue>,
    /// Whether the empty line that ends the head has arrived.
    is_complete: bool,
}

impl HeadScan {
    /// Reads the next bytes of the head. Ignores the bytes after it.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
        while let Some(part) = lines.next().filter(|_| !self.is_complete) {
            self.line_bytes = self.line_bytes.saturating_add(part.len());
            let room = MAX_LINE - self.line.len().min(MAX_LINE);
            self.line.extend_from_slice(part.get(..part.len().min(room)).unwrap_or_default());
            if part.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = self.line.trim_ascii_end();
        // Empty lines before the request line are allowed (RFC 9112, section 2.2).
        if self.request_line_bytes == 0 {
            if !line.is_empty() {
                self.request_line_bytes = self.line_bytes;
                self.is_head = line.starts_with(b"HEAD ");
            }
        } else if line.is_empty() {
            self.is_complete = true;
        } else if self.line_bytes <= MAX_LINE
            && let Some((name, value)) = line.split_at_checked("origin:".len())
            && name.eq_ignore_ascii_case(b"origin:")
        {
            self.origin = HeaderValue::from_bytes(value.trim_ascii()).ok();
        }
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

    /// Returns the `Origin`, if it has arrived.
    pub(super) fn origin(&self) -> Option<&HeaderValue> {
        self.origin.as_ref()
    }

    /// Returns whether the whole head has arrived.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }
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
}
