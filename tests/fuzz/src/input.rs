//! Inputs as lines of text, and what several properties ask of a text.

use wharf::error::Error;

/// The lines of an input; what is not UTF-8 is replaced.
pub(crate) fn lines(data: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(data).split('\n').map(str::to_owned).collect()
}

/// A line in which `\r`, `\n`, `\0` and `\\` are what they are in Rust.
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

/// Words with single spaces between them; the last one may hold spaces.
pub(crate) fn words<const N: usize>(line: &str) -> [&str; N] {
    let mut words = [""; N];
    for (word, part) in words.iter_mut().zip(line.splitn(N, ' ')) {
        *word = part;
    }
    words
}

/// A refusal is one line that a terminal shows as it is, and no essay. It is never for a defect of the host.
pub(crate) fn assert_refusal(error: &Error) {
    assert!(*error.kind() != wharf::error::Kind::Internal, "a defect: {}", error.report());
    assert_line(error.public());
    assert!(error.public().len() < 8 * 1024, "an essay: {}", error.public());
}

/// A text without control characters.
pub(crate) fn assert_line(text: &str) {
    assert!(!text.chars().any(char::is_control), "a control character: {text:?}");
}
