//! The options of `#[subscribe]`, `#[job]` and `#[schedule]`: `retries = 5, backoff = "10s"`.

use crate::duration::milliseconds;
use crate::name::checked_name;
use syn::parse::ParseStream;
use syn::{Error, Ident, LitInt, LitStr, Result, Token};

/// The options that an attribute takes, and the text that says so.
#[derive(Clone, Copy)]
pub(super) struct Form {
    keys: &'static [&'static str],
    pub(super) text: &'static str,
}

pub(super) const SUBSCRIPTION: Form = Form {
    keys: &["retries", "backoff"],
    text: "write `#[subscribe(\"user.deleted\")]`, perhaps with `retries` and `backoff`",
};

pub(super) const JOB: Form = Form {
    keys: &["name", "retries", "backoff", "deadline", "concurrency", "keep"],
    text: "a job takes `name`, `retries`, `backoff`, `deadline`, `concurrency` and `keep`",
};

pub(super) const SCHEDULE: Form = Form {
    keys: &["tz", "missed", "name", "retries", "backoff", "deadline", "concurrency", "keep"],
    text: "write `#[schedule(\"0 6 * * *\")]`, perhaps with `tz`, `missed` and the options of a job",
};

/// The options that were given.
#[derive(Default)]
pub(super) struct Options {
    pub(super) name: Option<LitStr>,
    pub(super) retries: Option<u32>,
    pub(super) backoff_ms: Option<u32>,
    pub(super) deadline_ms: Option<u32>,
    pub(super) concurrency: Option<u32>,
    pub(super) keep_ms: Option<u32>,
    pub(super) time_zone: Option<LitStr>,
    /// Whether the times that were missed cause one run.
    pub(super) once: Option<bool>,
}

impl Options {
    pub(super) fn parse(input: ParseStream<'_>, form: Form) -> Result<Self> {
        let mut options = Self::default();
        while !input.is_empty() {
            let key: Ident = input.parse().map_err(|error| Error::new(error.span(), form.text))?;
            let name = key.to_string();
            if !form.keys.contains(&name.as_str()) {
                return Err(Error::new(key.span(), format!("unknown key `{name}`: {}", form.text)));
            }
            input.parse::<Token![=]>()?;
            let seen = match name.as_str() {
                "name" => options.name.replace(checked_name(input.parse()?)?).is_some(),
                "retries" => options.retries.replace(repetitions(&input.parse()?)?).is_some(),
                "backoff" => options.backoff_ms.replace(backoff(&input.parse()?)?).is_some(),
                "deadline" => options.deadline_ms.replace(deadline(&input.parse()?)?).is_some(),
                "concurrency" => options.concurrency.replace(at_least_one(&input.parse()?)?).is_some(),
                "keep" => options.keep_ms.replace(milliseconds(&input.parse()?)?).is_some(),
                "tz" => options.time_zone.replace(input.parse()?).is_some(),
                _ => options.once.replace(missed(&input.parse()?)?).is_some(),
            };
            if seen {
                return Err(Error::new(key.span(), format!("`{name}` is given twice")));
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(options)
    }
}

/// The bounds of these three are those of the host.
fn repetitions(number: &LitInt) -> Result<u32> {
    match number.base10_parse::<u32>() {
        Ok(number @ ..=100) => Ok(number),
        _ => Err(Error::new(number.span(), "a task is repeated at most 100 times")),
    }
}

fn backoff(text: &LitStr) -> Result<u32> {
    match milliseconds(text)? {
        wait @ ..=3_600_000 => Ok(wait),
        _ => Err(Error::new(text.span(), "the first wait is at most one hour: `backoff = \"1h\"`")),
    }
}

fn deadline(text: &LitStr) -> Result<u32> {
    match milliseconds(text)? {
        time @ 10.. => Ok(time),
        _ => Err(Error::new(text.span(), "an attempt has at least ten milliseconds: `deadline = \"10ms\"`")),
    }
}

fn at_least_one(number: &LitInt) -> Result<u32> {
    match number.base10_parse::<u32>() {
        Ok(number @ 1..) => Ok(number),
        _ => Err(Error::new(number.span(), "at least one job has to be able to run: `concurrency = 1`")),
    }
}

fn missed(word: &Ident) -> Result<bool> {
    match word.to_string().as_str() {
        "once" => Ok(true),
        "skip" => Ok(false),
        other => Err(Error::new(
            word.span(),
            format!(
                "`missed` is `skip`, or `once` to run once after times that passed while the host was down, not `{other}`"
            ),
        )),
    }
}
