//! The checks of the texts of a mail that become headers, or that a reader sees as such. Owns the texts of the refusals. No
//! text that passes can end a header or begin another one, whatever encodes it later.

/// The longest subject, in characters.
const MAX_SUBJECT: usize = 250;

/// The longest name of an attachment, in characters.
const MAX_NAME: usize = 150;

/// The longest media type of an attachment, in bytes.
const MAX_CONTENT_TYPE: usize = 120;

/// Checks that a text is on one line and has no control character. `member` is its name for the author of the plugin.
pub(super) fn one_line(member: &str, text: &str) -> Result<(), String> {
    let is_break = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    if text.contains(is_break) {
        return Err(format!("{member}: contains a line break or a control character"));
    }
    Ok(())
}

/// Checks a subject.
pub(super) fn subject(text: &str) -> Result<(), String> {
    one_line("subject", text)?;
    match text.chars().count() {
        _ if text.trim().is_empty() => Err("subject: empty".to_owned()),
        count if count > MAX_SUBJECT => Err(format!("subject: longer than {MAX_SUBJECT} characters")),
        _ => Ok(()),
    }
}

/// Checks a body.
pub(super) fn body(member: &str, text: &str) -> Result<(), String> {
    if text.contains('\0') { Err(format!("{member}: contains the character U+0000")) } else { Ok(()) }
}

/// Checks the name of an attachment. A reader must not take it for another one: it has no directory, and no characters that
/// reverse the direction of text.
pub(super) fn file_name(member: &str, name: &str) -> Result<(), String> {
    one_line(member, name)?;
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if name.trim().is_empty() || name.trim_matches('.').is_empty() {
        Err(format!("{member}: empty"))
    } else if name.chars().count() > MAX_NAME {
        Err(format!("{member}: longer than {MAX_NAME} characters"))
    } else if name.contains(['/', '\\']) {
        Err(format!("{member}: has a path"))
    } else if name.contains(turns) {
        Err(format!("{member}: contains a character that changes the direction of text"))
    } else {
        Ok(())
    }
}

/// Checks the media type of an attachment: `TYPE/SUBTYPE`, perhaps with parameters without quotes. The
/// only blanks are those behind a semicolon, so each text that passes can be written when the mail is sent.
pub(super) fn content_type(member: &str, text: &str) -> Result<(), String> {
    let is_token = |text: &str| {
        let is_token_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte);
        !text.is_empty() && text.bytes().all(is_token_byte)
    };
    let mut parts = text.split(';');
    let essence = parts.next().and_then(|essence| essence.split_once('/'));
    let is_parameter = |text: &str| {
        text.trim_start_matches(' ').split_once('=').is_some_and(|(name, value)| is_token(name) && is_token(value))
    };
    let Some((kind, subtype)) = essence.filter(|(kind, subtype)| is_token(kind) && is_token(subtype)) else {
        return Err(format!("{member}: not a media type such as text/csv"));
    };
    if text.len() > MAX_CONTENT_TYPE || !parts.all(is_parameter) {
        return Err(format!("{member}: not a media type such as text/csv"));
    }
    // Their content would be read as parts of the mail.
    if ["multipart", "message"].iter().any(|whole| kind.eq_ignore_ascii_case(whole)) {
        return Err(format!("{member}: {kind}/{subtype} is for mails, not for files"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_a_header_has_a_line_break_in_any_form() {
        for wrong in ["a\r\nBcc: x@example.com", "a\nb", "a\rb", "a\0b", "a\u{85}b", "a\u{2028}b", "a\tb", "a\u{7f}"] {
            assert!(subject(wrong).is_err() && file_name("name", wrong).is_err(), "{wrong:?}");
            assert!(content_type("type", &format!("text/{wrong}")).is_err(), "{wrong:?}");
            assert!(content_type("type", &format!("text/csv; charset={wrong}")).is_err(), "{wrong:?}");
        }
        assert_eq!(one_line("to", "a\n").unwrap_err(), "to: contains a line break or a control character");
    }

    #[test]
    fn a_subject_is_one_line_with_a_bound() {
        assert!(subject("Ihre Übersicht: 3 Dinge ✓").is_ok() && subject(&"ä".repeat(250)).is_ok());
        assert_eq!(subject("  ").unwrap_err(), "subject: empty");
        assert_eq!(subject(&"ä".repeat(251)).unwrap_err(), "subject: longer than 250 characters");
        assert_eq!(body("html", "a\0").unwrap_err(), "html: contains the character U+0000");
    }

    #[test]
    fn the_name_of_a_file_is_no_path_and_no_disguise() {
        for good in ["summary.pdf", "Übersicht (1).csv", ".hidden", "a\"b"] {
            assert!(file_name("name", good).is_ok(), "{good}");
        }
        for wrong in ["", " ", ".", "..", "a/b", "..\\b", "invoice\u{202e}fdp.exe", &"x".repeat(151)] {
            assert!(file_name("name", wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_type_of_a_file_is_a_media_type() {
        for good in
            ["text/csv", "application/vnd.ms-excel", "image/svg+xml", "text/plain; charset=utf-8", "TEXT/CSV;a=b"]
        {
            assert!(content_type("type", good).is_ok(), "{good}");
        }
        for wrong in [
            "",
            "text",
            "/csv",
            "text/",
            "text/csv/x",
            "text/csv;",
            "text/csv; charset",
            "text/csv; name=\"a\"",
            "multipart/mixed",
            "Message/rfc822",
            "text/c v",
            "text/csvé",
            " text/csv",
            "text/csv ",
            "text/csv ; a=b",
            "text/csv; a=b ",
        ] {
            assert!(content_type("type", wrong).is_err(), "{wrong}");
        }
        assert!(content_type("type", &format!("text/{}", "x".repeat(200))).is_err());
    }

    proptest::proptest! {
        #[test]
        fn a_text_that_passes_is_one_line(text in "[\\x00-\\x7f\u{80}-\u{9f}\u{2028}\u{2029}ä]{0,20}") {
            let is_break = |c: char| c < ' ' || matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}');
            for passes in [subject(&text), file_name("name", &text), content_type("type", &text)] {
                proptest::prop_assert!(passes.is_err() || !text.contains(is_break));
            }
        }
    }
}
