//! Inputs as lines of text, and checks that several targets share.

use wharf::error::Error;

/// Splits an input into lines; invalid UTF-8 is replaced.
pub(crate) fn lines(data: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(data).split('\n').map(str::to_owned).collect()
}

/// Replaces the escapes `\r`, `\n`, `\0` and `\\`, as Rust does.
pub(crate) fn unescaped(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(character) = rest.next() {
        match character {
            '\\' => match rest.next() {
                Some('r') => text.push('\r'),
                Some('n') => text.push('\n'),
                Some('0') => text.push('\0'),
                Some(other) => text.push(other),
                None => text.push('\\'),
            },
            other => text.push(other),
        }
    }
    text
}

/// Splits a line into words at single spaces; the last word may contain spaces.
pub(crate) fn words<const N: usize>(line: &str) -> [&str; N] {
    let mut words = [""; N];
    for (word, part) in words.iter_mut().zip(line.splitn(N, ' ')) {
        *word = part;
    }
    words
}

/// Checks that a rejection is one short line that a terminal shows unchanged, and is never reported as a defect of the
/// host.
pub(crate) fn assert_refusal(error: &Error) {
    assert!(*error.kind() != wharf::error::Kind::Internal, "a defect: {}", error.report());
    assert_line(error.public());
    assert!(error.public().len() < 8 * 1024, "a long text: {}", error.public());
}

/// Checks that a text has no control characters.
pub(crate) fn assert_line(text: &str) {
    assert!(!text.chars().any(char::is_control), "a control character: {text:?}");
}
