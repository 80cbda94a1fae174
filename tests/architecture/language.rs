//! Keeps the texts of the repository in plain English, as far as a machine can tell: no person is *he*, and no statement
//! begins with a question word. Reads Markdown, the comments of Rust and WIT files, and the strings of Rust files.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::support::component::workspace;

/// Pronouns of one gender.
const PRONOUNS: &[&str] = &["he", "his", "him", "himself"];

/// Words that begin a question. A statement that begins with one has a clause as its subject, which is hard to read.
const QUESTION_WORDS: &[&str] = &["Who", "What", "Whoever", "Whatever"];

/// Files that may have such pronouns, each with the reason.
const EXCEPTIONS: &[(&str, &str)] = &[("tests/architecture/language.rs", "it lists them")];

/// A piece of text in a file: a comment block, a string or a paragraph.
#[derive(Debug, PartialEq, Eq)]
struct Passage {
    line: usize,
    text: String,
    /// Whether sentences are checked in addition to words.
    prose: bool,
}

/// Returns the files that git tracks; `None` in a copy of the sources without git, but not in CI.
fn tracked() -> Option<Vec<String>> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(workspace()).output();
    let listed = match listed {
        Ok(listed) if listed.status.success() => listed.stdout,
        other => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "git lists no files: {other:?}");
            eprintln!("skipped: git lists no files");
            return None;
        }
    };
    let listed = String::from_utf8(listed).unwrap();
    Some(listed.split('\0').filter(|file| !file.is_empty()).map(str::to_owned).collect())
}

/// Returns the comments of a file. Consecutive lines are one passage.
fn comments(text: &str, marks: &[&str]) -> Vec<Passage> {
    let mut found: Vec<Passage> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        let comment = marks.iter().find_map(|mark| line.trim_start().strip_prefix(mark));
        match comment.map(str::trim) {
            Some(words) => extend(&mut found, &mut open, index + 1, words),
            None => open = false,
        }
    }
    found
}

/// Returns the paragraphs, list items, headings and table cells of a page, without code blocks.
fn paragraphs(text: &str) -> Vec<Passage> {
    let mut found = Vec::new();
    let (mut open, mut code) = (false, false);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("```") {
            code = !code;
            open = false;
        } else if !code {
            for cell in if line.starts_with('|') { line.split('|').collect() } else { vec![line] } {
                open &= !line.starts_with('|');
                extend(&mut found, &mut open, index + 1, cell.trim());
            }
        }
    }
    found
}

/// Adds a line to the open passage, or begins a new one at a blank line, a heading or a list item.
fn extend(found: &mut Vec<Passage>, open: &mut bool, line: usize, words: &str) {
    let item = words.trim_start_matches(['#', '-', '*', '>', ' ']);
    let begins = item.len() < words.len() && !words.starts_with("**");
    match found.last_mut() {
        Some(passage) if *open && !begins && !words.is_empty() => {
            passage.text.push(' ');
            passage.text.push_str(words);
        }
        _ if words.is_empty() => *open = false,
        _ => {
            found.push(Passage { line, text: item.trim_start_matches('*').to_owned(), prose: true });
            *open = !words.starts_with('#');
        }
    }
}

/// Returns the strings of a Rust file. Skips comments and character literals, and knows raw strings.
fn strings(text: &str) -> Vec<Passage> {
    let mut found = Vec::new();
    let bytes = text.as_bytes();
    let (mut at, mut line) = (0, 1);
    while let Some(&byte) = bytes.get(at) {
        let rest = &text[at..];
        let raw = rest.strip_prefix('r').map(|rest| rest.len() - rest.trim_start_matches('#').len());
        let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(hashes) =
            raw.filter(|hashes| rest[1 + hashes..].starts_with('"')).filter(|_| !word_before || bytes[at - 1] == b'b')
        {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = &rest[hashes + 2..];
            let length = body.find(&end).unwrap_or(body.len());
            found.push(Passage { line, text: body[..length].to_owned(), prose: false });
            (hashes + 2 + length + end.len()).min(rest.len())
        } else if byte == b'"' {
            let mut length = 1;
            while let Some(&next) = rest.as_bytes().get(length) {
                length += if next == b'\\' { 2 } else { 1 };
                if next == b'"' {
                    break;
                }
            }
            let length = length.min(rest.len());
            let body = rest[1..length].strip_suffix('"').unwrap_or(&rest[1..length]);
            found.push(Passage { line, text: body.to_owned(), prose: false });
            length
        } else if rest.starts_with("'\"'") {
            3
        } else if rest.starts_with("'\\") {
            3 + rest[3..].find('\'').unwrap_or(0)
        } else {
            rest.chars().next().map_or(1, char::len_utf8)
        };
        line += rest.as_bytes()[..length].iter().filter(|byte| **byte == b'\n').count();
        at += length;
    }
    found
}

fn passages(file: &str, text: &str) -> Vec<Passage> {
    match Path::new(file).extension().and_then(|extension| extension.to_str()) {
        Some("md") => paragraphs(text),
        Some("rs") => {
            let mut found = comments(text, &["//!", "///", "//"]);
            found.extend(strings(text));
            found
        }
        Some("wit") => comments(text, &["///", "//"]),
        _ => Vec::new(),
    }
}

/// Replaces code in backticks, which is in no language.
fn plain(text: &str) -> String {
    text.split('`').enumerate().map(|(index, part)| if index % 2 == 0 { part } else { "…" }).collect()
}

/// Returns the pronouns in a passage.
fn pronouns(text: &str) -> Vec<&'static str> {
    let plain = plain(text);
    let words: BTreeSet<&str> = plain.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    PRONOUNS.iter().copied().filter(|word| words.contains(word)).collect()
}

/// Returns the first words of each statement that begins with a question word.
fn statements(text: &str) -> Vec<String> {
    let plain = plain(text);
    let mut found = Vec::new();
    let mut rest = plain.as_str();
    while !rest.trim().is_empty() {
        rest = rest.trim_start_matches([' ', '\n', '"', '(', '*', '_']);
        let end = rest.match_indices(['.', '!', '?']).find(|(at, mark)| {
            rest[at + mark.len()..]
                .trim_start_matches(['*', ')', '"', '_'])
                .chars()
                .next()
                .is_none_or(char::is_whitespace)
        });
        let (length, mark) = end.map_or((rest.len(), ""), |(at, mark)| (at + mark.len(), mark));
        let first = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        if mark != "?" && QUESTION_WORDS.contains(&first) {
            found.push(rest[..length].split_whitespace().take(6).collect::<Vec<_>>().join(" "));
        }
        rest = &rest[length..];
    }
    found
}

#[test]
fn texts_are_in_plain_words() {
    let mut wrong: Vec<String> = Vec::new();
    let mut read = 0;
    let Some(files) = tracked() else { return };
    for file in files {
        // Git still tracks a file that is deleted and not committed yet.
        let Ok(text) = std::fs::read_to_string(workspace().join(&file)) else { continue };
        for passage in passages(&file, &text) {
            read += 1;
            let excepted = EXCEPTIONS.iter().any(|(of, _)| *of == file);
            let words = if excepted { Vec::new() } else { pronouns(&passage.text) };
            let words = words.into_iter().map(|word| format!("says {word:?}"));
            let statements = if passage.prose { statements(&passage.text) } else { Vec::new() };
            for fault in words.chain(statements.into_iter().map(|words| format!("states {words:?}"))) {
                wrong.push(format!("{file}:{} {fault}", passage.line));
            }
        }
    }
    assert!(read > 5_000, "only {read} passages were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn questions_and_code_are_no_findings() {
    assert_eq!(pronouns("A client that he signs in, by `his` name; others, theirs. history, the"), ["he"]);
    assert!(statements("Who may do what? Says what is so. A user who signed in. `What` is a type.").is_empty());
    assert_eq!(statements("It is so. Who reads, gets it. What now?"), ["Who reads, gets it."]);
    assert_eq!(statements("What a plugin answers"), ["What a plugin answers"]);
    assert_eq!(statements("Two: what is it? (Whatever comes.)"), ["Whatever comes."]);
    assert_eq!(statements("What does it cost: much, or little? What counts: the cost."), ["What counts: the cost."]);
}

#[test]
fn passages_are_comments_strings_and_paragraphs() {
    let of = |file: &str, text: &str| -> Vec<(usize, String)> {
        passages(file, text).into_iter().map(|passage| (passage.line, passage.text)).collect()
    };
    let at = |line: usize, text: &str| (line, text.to_owned());
    let code =
        "/// One\n/// sentence.\nfn f<'a>(c: char) { '\"'; '\\''; \"a \\\"b\\\"\"; r#\"c \"d\"#; } // not read\n";
    assert_eq!(of("a.rs", code), [at(1, "One sentence."), at(3, "a \\\"b\\\""), at(3, "c \"d")]);
    let page = "# Head\nOne\ntwo.\n\n- item\n  goes on\n- next\n\n```\ncode\n```\n| a | b c |\n";
    assert_eq!(
        of("a.md", page),
        [at(1, "Head"), at(2, "One two."), at(5, "item goes on"), at(7, "next"), at(12, "a"), at(12, "b c")]
    );
}
