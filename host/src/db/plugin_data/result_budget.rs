//! Counts the rows and bytes of a result against the limits of its statement.

use super::error::DataError;
use super::statement_limits::StatementLimits;

/// Counts a result while it arrives, so that one beyond the limits is cut off instead of held in memory.
#[derive(Debug)]
pub(super) struct ResultBudget<'a> {
    limits: &'a StatementLimits,
    rows: usize,
    bytes: usize,
}

impl<'a> ResultBudget<'a> {
    pub(super) fn new(limits: &'a StatementLimits) -> Self {
        Self { limits, rows: 0, bytes: 0 }
    }

    pub(super) fn row(&mut self) -> Result<(), DataError> {
        self.rows = self.rows.saturating_add(1);
        if self.rows > self.limits.rows { Err(DataError::rows(self.limits)) } else { Ok(()) }
    }

    /// Checks a value of `raw` bytes before it is read: one that cannot be within the limit is not even copied. The raw
    /// form may have a few bytes more than the value.
    pub(super) fn admits(&self, raw: usize) -> Result<(), DataError> {
        const FRAME: usize = 16;
        let bytes = self.bytes.saturating_add(raw.saturating_sub(FRAME));
        if bytes > self.limits.bytes { Err(DataError::bytes(self.limits)) } else { Ok(()) }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<(), DataError> {
        self.bytes = self.bytes.saturating_add(count);
        if self.bytes > self.limits.bytes { Err(DataError::bytes(self.limits)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_value_whose_raw_form_is_too_long_is_refused_before_it_is_read() {
        let limits = StatementLimits { rows: 1, bytes: 100, time: Duration::ZERO, connections: 1, disk: 1 };
        let mut budget = ResultBudget::new(&limits);
        assert!(budget.admits(101).is_ok(), "without its framing it may be within the limit");
        assert!(budget.admits(117).is_err());
        budget.bytes(90).unwrap();
        assert!(budget.admits(27).is_err());
        assert!(budget.admits(10).is_ok() && budget.bytes(11).is_err());
    }
}
