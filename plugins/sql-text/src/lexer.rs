//! Splits SQL text into tokens, without their meaning. Owns the lexical rules of the two databases (strings, quoted
//! names, comments, dollar quotes, parameters). Accepts any text: the lexer never fails and never panics. Where the
//! database might read the text differently, it returns [`Token::Refused`].

/// The database whose lexical rules apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite's.
    Sqlite,
    /// PostgreSQL's.
    Postgres,
}

/// A token. White space and comments yield none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// A keyword or a bare name.
    Word(&'a str),
    /// A quoted name, with its quotes.
    Name(&'a str),
    /// A string or a number; the checks do not need its text.
    Literal,
    /// `$7`
    Parameter(u16),
    /// Any other character.
    Symbol(u8),
    /// A spelling that versions or databases read differently; the text says what to write instead.
    Refused(&'static str),
}

const ONLY_NUMBERED: &str = "parameters are written $1, $2, …";
const NO_PARAMETER_SUFFIX: &str =
    "SQLite takes the text after a parameter as part of its name; write CAST($1 AS type) for $1::type";
const NO_CONTINUATION: &str = "an E'' string cannot continue in another string; write a single one";
const NUMBER_BEFORE_WORD: &str = "a number is followed by a letter; write a space between them";
const NO_UNICODE_ESCAPES: &str = "U& strings and names are not supported; write the characters themselves";

/// Yields each token with its byte range.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    dialect: Dialect,
    text: &'a str,
    at: usize,
}

fn begins_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn continues_word(byte: u8) -> bool {
    begins_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

impl<'a> Lexer<'a> {
    /// Begins at the start of the text.
    pub fn new(dialect: Dialect, text: &'a str) -> Self {
        Self { dialect, text, at: 0 }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at.checked_add(ahead)?).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// Returns the text from `start`. Positions are always next to an ASCII character, so they never split a UTF-8
    /// sequence.
    fn slice(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn skip(&mut self, count: usize) {
        self.at = self.at.saturating_add(count).min(self.text.len());
    }

    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        let count = self.rest().iter().take_while(|byte| wanted(**byte)).count();
        self.skip(count);
    }

    /// Skips past the next `needle`, or to the end.
    fn skip_past(&mut self, needle: &[u8]) {
        let found = self.rest().windows(needle.len()).position(|window| window == needle);
        self.skip(found.map_or(usize::MAX, |position| position.saturating_add(needle.len())));
    }

    fn skip_space_and_comments(&mut self) {
        loop {
            match (self.peek(0), self.peek(1)) {
                (Some(byte), _) if byte.is_ascii_whitespace() || byte == 0x0b => self.skip(1),
                // On PostgreSQL a carriage return also ends a line comment.
                (Some(b'-'), Some(b'-')) => match self.dialect {
                    Dialect::Sqlite => self.skip_while(|byte| byte != b'\n'),
                    Dialect::Postgres => self.skip_while(|byte| byte != b'\n' && byte != b'\r'),
                },
                (Some(b'/'), Some(b'*')) => self.skip_block_comment(),
                _ => return,
            }
        }
    }

    fn skip_block_comment(&mut self) {
        self.skip(2);
        if self.dialect == Dialect::Sqlite {
            return self.skip_past(b"*/");
        }
        let mut depth = 1_u32;
        while depth > 0 && self.at < self.text.len() {
            match (self.peek(0), self.peek(1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth = depth.saturating_add(1);
                    self.skip(2);
                }
                (Some(b'*'), Some(b'/')) => {
                    depth = depth.saturating_sub(1);
                    self.skip(2);
                }
                _ => self.skip(1),
            }
        }
    }

    /// Skips from an opening quote past its closing one. A doubled quote is part of the text.
    fn skip_quoted(&mut self, close: u8, backslash_escapes: bool) {
        self.skip(1);
        while let Some(byte) = self.peek(0) {
            self.skip(1);
            if byte == b'\\' && backslash_escapes {
                self.skip(1);
            } else if byte == close {
                if self.peek(0) == Some(close) && close != b']' {
                    self.skip(1);
                } else {
                    return;
                }
            }
        }
    }

    fn word(&mut self, start: usize) -> Token<'a> {
        self.skip_while(continues_word);
        let word = self.slice(start);
        if self.dialect == Dialect::Postgres {
            if word.eq_ignore_ascii_case("e") && self.peek(0) == Some(b'\'') {
                self.skip_quoted(b'\'', true);
                // A string after a line break would continue this one, and have escapes too.
                let mut ahead = self.clone();
                ahead.skip_space_and_comments();
                return if ahead.peek(0) == Some(b'\'') { Token::Refused(NO_CONTINUATION) } else { Token::Literal };
            }
            if word.eq_ignore_ascii_case("u")
                && self.peek(0) == Some(b'&')
                && matches!(self.peek(1), Some(b'\'' | b'"'))
            {
                return Token::Refused(NO_UNICODE_ESCAPES);
            }
        }
        Token::Word(word)
    }

    fn dollar(&mut self) -> Token<'a> {
        let start = self.at;
        self.skip(1);
        if self.peek(0).is_some_and(|byte| byte.is_ascii_digit()) {
            self.skip_while(|byte| byte.is_ascii_digit());
            let digits = self.text.get(start.saturating_add(1)..self.at).unwrap_or_default();
            let suffix = match self.peek(0) {
                Some(b'(') => self.dialect == Dialect::Sqlite,
                Some(b':') => self.dialect == Dialect::Sqlite,
                Some(byte) => continues_word(byte),
                None => false,
            };
            return match digits.parse() {
                _ if suffix => Token::Refused(NO_PARAMETER_SUFFIX),
                Ok(number) if number > 0 && !digits.starts_with('0') => Token::Parameter(number),
                _ => Token::Refused(ONLY_NUMBERED),
            };
        }
        if self.dialect == Dialect::Sqlite {
            return Token::Refused(ONLY_NUMBERED);
        }
        self.skip_while(|byte| continues_word(byte) && byte != b'$');
        if self.peek(0) != Some(b'$') {
            return Token::Refused(ONLY_NUMBERED);
        }
        self.skip(1);
        self.skip_past(self.slice(start).as_bytes());
        Token::Literal
    }

    /// Skips a number. PostgreSQL before 15 takes `1into` for two tokens, and later ones refuse it.
    fn number(&mut self) -> Token<'a> {
        let digits = |byte: u8| byte.is_ascii_digit() || byte == b'_';
        let radix = self.peek(0) == Some(b'0');
        match self.peek(1).filter(|_| radix) {
            Some(b'x' | b'X') => {
                self.skip(2);
                self.skip_while(|byte| byte.is_ascii_hexdigit() || byte == b'_');
            }
            Some(b'o' | b'O' | b'b' | b'B') => {
                self.skip(2);
                self.skip_while(digits);
            }
            _ => {
                self.skip_while(digits);
                if self.peek(0) == Some(b'.') {
                    self.skip(1);
                    self.skip_while(digits);
                }
                let sign = usize::from(matches!(self.peek(1), Some(b'+' | b'-')));
                let has_exponent = matches!(self.peek(0), Some(b'e' | b'E'))
                    && self.peek(sign.saturating_add(1)).is_some_and(|byte| byte.is_ascii_digit());
                if has_exponent {
                    self.skip(sign.saturating_add(1));
                    self.skip_while(digits);
                }
            }
        }
        if self.peek(0).is_some_and(continues_word) { Token::Refused(NUMBER_BEFORE_WORD) } else { Token::Literal }
    }

    fn token(&mut self, first: u8) -> Token<'a> {
        let start = self.at;
        match first {
            b'\'' => {
                self.skip_quoted(b'\'', false);
                Token::Literal
            }
            b'"' => {
                self.skip_quoted(b'"', false);
                Token::Name(self.slice(start))
            }
            b'`' | b'[' if self.dialect == Dialect::Sqlite => {
                self.skip_quoted(if first == b'[' { b']' } else { first }, false);
                Token::Name(self.slice(start))
            }
            b'$' => self.dollar(),
            b'?' | b'@' | b'#' | b':' if self.dialect == Dialect::Sqlite => {
                self.skip(1);
                Token::Refused(ONLY_NUMBERED)
            }
            byte if begins_word(byte) => self.word(start),
            byte if byte.is_ascii_digit() => self.number(),
            byte => {
                self.skip(1);
                Token::Symbol(byte)
            }
        }
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = (Token<'a>, std::ops::Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        self.skip_space_and_comments();
        let start = self.at;
        let first = self.peek(0)?;
        let token = self.token(first);
        Some((token, start..self.at))
    }
}
