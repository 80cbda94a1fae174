//! The memory for parsed JSON, estimated from its text before it is parsed.

use serde_json::Value;

/// Memory of a parsed value in addition to its text, and what a member of an object needs more than a list element.
/// Both are upper bounds, because vectors grow by doubling.
pub const VALUE_BYTES: usize = 2 * size_of::<Value>();
/// See [`VALUE_BYTES`].
pub const MEMBER_BYTES: usize = 2 * size_of::<(String, u64)>();

/// Returns an upper bound of the memory for the parsed values of a JSON text. Each string is copied at its length in
/// the text, and a string with an escape is assembled in a buffer that grows by doubling.
pub fn parsed_bytes(text: &[u8]) -> usize {
    let (mut bytes, mut in_string, mut escaped) = (VALUE_BYTES, false, false);
    let (mut texts, mut escapes) = (0_usize, false);
    for &byte in text {
        texts = texts.saturating_add(usize::from(in_string));
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => (escaped, escapes) = (true, true),
            b'"' => in_string = !in_string,
            b'[' | b'{' | b',' if !in_string => bytes = bytes.saturating_add(VALUE_BYTES),
            b':' if !in_string => bytes = bytes.saturating_add(MEMBER_BYTES),
            _ => {}
        }
    }
    bytes.saturating_add(texts.saturating_mul(if escapes { 3 } else { 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsed_values_need_more_memory_than_their_text() {
        let numbers = format!("[{}0]", "0,".repeat(999));
        assert_eq!(parsed_bytes(numbers.as_bytes()), 1_001 * VALUE_BYTES);
        let text = format!("{{\"a\": \"{}\\\"[[[[\"}}", ",".repeat(999));
        // Includes the closing quotes.
        assert_eq!(parsed_bytes(text.as_bytes()), 2 * VALUE_BYTES + MEMBER_BYTES + 3 * (2 + 999 + 2 + 4 + 1));
        assert_eq!(parsed_bytes(format!("\"{}\"", ",".repeat(999)).as_bytes()), VALUE_BYTES + 1_000);
    }
}
