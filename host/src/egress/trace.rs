//! Trace context (<https://www.w3.org/TR/trace-context/>): the trace that a request belongs to, passed on from the
//! client's request to the requests that plugins send. Only the host writes it, so that no plugin can join another's
//! trace.

use crate::clock::Random;
use crate::error::Result;

/// The longest `tracestate` that is passed on; the standard requires no more.
const MAX_STATE: usize = 512;

/// The trace that a call belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    id: String,
    flags: String,
    state: Option<String>,
}

impl Trace {
    /// Reads the trace context of a request; `None` if it is missing, repeated or malformed.
    pub fn of(headers: &[(&str, &str)]) -> Option<Self> {
        let mut values = headers.iter().filter(|(name, _)| *name == "traceparent").map(|(_, value)| *value);
        let (Some(parent), None) = (values.next(), values.next()) else { return None };
        let mut parts = parent.split('-');
        let (version, id, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        // Later versions may have more fields; version 00 has exactly four.
        let complete = version != "00" || parts.next().is_none();
        let valid = hex(version, 2) && version != "ff" && hex(id, 32) && hex(span, 16) && hex(flags, 2) && complete;
        if !valid || id.bytes().all(|byte| byte == b'0') || span.bytes().all(|byte| byte == b'0') {
            return None;
        }
        let states: Vec<&str> =
            headers.iter().filter(|(name, _)| *name == "tracestate").map(|(_, value)| value.trim()).collect();
        let state = Some(states.join(",")).filter(|state| !state.is_empty() && state.len() <= MAX_STATE);
        Some(Self { id: id.to_owned(), flags: flags.to_owned(), state })
    }

    /// Begins a trace whose id is the request's id, so that a reader of one log finds the other. Without such a request it has
    /// an id of its own.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn begin(request_id: Option<&str>, random: &Random) -> Result<Self> {
        let id = match request_id.filter(|id| hex(id, 32)) {
            Some(id) => id.to_owned(),
            None => random.uuid()?.simple().to_string(),
        };
        // The host records no spans, so it does not claim to have sampled any.
        Ok(Self { id, flags: "00".to_owned(), state: None })
    }

    /// Returns the headers of one outgoing request, which is a span of its own.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(super) fn headers(&self, random: &Random) -> Result<(String, Option<&str>)> {
        let span = u64::from_be_bytes(random.bytes()?).max(1);
        Ok((format!("00-{}-{span:016x}-{}", self.id, self.flags), self.state.as_deref()))
    }
}

fn hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_valid_context_is_read_and_any_other_is_ignored() {
        let parent = format!("00-{ID}-00f067aa0ba902b7-01");
        let trace = Trace::of(&[("traceparent", &parent), ("tracestate", "a=1"), ("tracestate", "b=2")]).unwrap();
        let random = Random::Sequence(Default::default());
        random.bytes::<8>().unwrap();
        let (traceparent, state) = trace.headers(&random).unwrap();
        assert_eq!((traceparent.as_str(), state), (&*format!("00-{ID}-0000000000000001-01"), Some("a=1,b=2")));
        for bad in [
            "",
            "00",
            &format!("00-{ID}-00f067aa0ba902b7"),
            &format!("ff-{ID}-00f067aa0ba902b7-01"),
            &format!("00-{ID}-00f067aa0ba902b7-01-x"),
            &format!("00-{ID}-0000000000000000-01"),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{}-00f067aa0ba902b7-01", ID.to_uppercase()),
            &format!("00-{ID}-00f067aa0ba902b7-0é"),
        ] {
            assert_eq!(Trace::of(&[("traceparent", bad)]), None, "{bad}");
        }
        assert_eq!(Trace::of(&[("traceparent", &parent), ("traceparent", &parent)]), None);
        assert!(Trace::of(&[("traceparent", &format!("01-{ID}-00f067aa0ba902b7-01-more"))]).is_some());
    }

    #[test]
    fn a_trace_that_the_host_begins_has_the_id_of_the_request() {
        let random = Random::Sequence(Default::default());
        let trace = Trace::begin(Some(ID), &random).unwrap();
        assert!(trace.headers(&random).unwrap().0.starts_with(&format!("00-{ID}-")));
        for without in [Some("start"), None] {
            let other = Trace::begin(without, &random).unwrap().headers(&random).unwrap().0;
            assert!(Trace::of(&[("traceparent", &other)]).is_some(), "{other}");
        }
    }
}
