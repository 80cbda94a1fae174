//! Log lines as text for people. Control characters are escaped, in the message and in each field: a text of a plugin or a
//! client could otherwise add a line that looks like one of the host, or move the cursor of a terminal.

use std::fmt::{self, Debug};

use tracing::field::Field;
use tracing_subscriber::fmt::format::Writer;

use super::json_lines::OF_LOG_CRATE;

/// The field that has the text of the event.
const MESSAGE: &str = "message";

/// Writes one field.
pub(super) fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    if field.name().starts_with(OF_LOG_CRATE) {
        return Ok(());
    }
    if field.name() != MESSAGE {
        write!(writer, "{}=", field.name().trim_start_matches("r#"))?;
    }
    for character in format!("{value:?}").chars() {
        if character.is_control() {
            write!(writer, "{}", character.escape_default())?;
        } else {
            writer.write_char(character)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use tracing_subscriber::field::MakeExt as _;
    use tracing_subscriber::fmt::format;

    use super::*;

    #[test]
    fn a_text_cannot_add_a_line_or_an_escape_sequence() {
        let (output, writer) = io::pipe().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(Arc::new(writer))
            .with_ansi(false)
            .fmt_fields(format::debug_fn(write_field).delimited(" "))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let (shown, quoted) = ("c\rd", "e\nf");
            tracing::warn!(shown = %shown, quoted, number = 7, "a\nERROR b\u{1b}[2J\u{9b}\u{85}ü {}", "x");
        });
        let text = io::read_to_string(output).unwrap();
        let expected = "a\\nERROR b\\u{1b}[2J\\u{9b}\\u{85}ü x shown=c\\rd quoted=\"e\\nf\" number=7\n";
        assert!(text.ends_with(expected), "{text:?}");
        assert_eq!(text.matches(char::is_control).count(), 1, "{text:?}");
    }
}
