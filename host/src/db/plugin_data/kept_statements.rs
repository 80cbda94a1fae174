//! The prepared statements that a connection keeps for their next use. Owns the plans of these statements, and the
//! limits of their number and memory: a plugin chooses the texts, so each could be new and as large as a text may be.
//! The databases keep their own half of each statement; the owner of the connection forgets both halves together.

use std::collections::HashMap;

/// The maximum number of statements of one connection.
pub(super) const MAX_STATEMENTS: usize = 128;

/// The memory of one statement, above which it is forgotten after its use.
const STATEMENT_BYTES: usize = 128 * 1024;

/// The memory of all statements of one connection, above which all are forgotten.
const CONNECTION_BYTES: usize = 2 * 1024 * 1024;

/// The memory of a column: its name and its type, in the host and in the database.
const COLUMN_BYTES: usize = 256;

/// The plans of the statements, each with the memory that its statement takes.
pub(super) struct KeptStatements<P> {
    plans: HashMap<Box<str>, (P, usize)>,
    bytes: usize,
}

impl<P: Clone> KeptStatements<P> {
    pub(super) fn new() -> Self {
        Self { plans: HashMap::new(), bytes: 0 }
    }

    pub(super) fn get(&self, sql: &str) -> Option<P> {
        self.plans.get(sql).map(|(plan, _)| plan.clone())
    }

    /// Adds a statement, or replaces its plan. `bytes` is the memory that the database takes for it.
    pub(super) fn insert(&mut self, sql: &str, plan: P, columns: usize, bytes: usize) {
        let bytes = bytes.saturating_add(sql.len()).saturating_add(columns.saturating_mul(COLUMN_BYTES));
        self.remove(sql);
        self.bytes = self.bytes.saturating_add(bytes);
        self.plans.insert(sql.into(), (plan, bytes));
    }

    pub(super) fn remove(&mut self, sql: &str) {
        if let Some((_, bytes)) = self.plans.remove(sql) {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    pub(super) fn clear(&mut self) {
        self.plans.clear();
        self.bytes = 0;
    }

    /// Returns whether all statements must be forgotten before another one is added.
    pub(super) fn is_full(&self) -> bool {
        self.plans.len() >= MAX_STATEMENTS || self.bytes > CONNECTION_BYTES
    }

    /// Returns whether the statement must be forgotten after its use.
    pub(super) fn is_too_large(&self, sql: &str) -> bool {
        self.plans.get(sql).is_some_and(|(_, bytes)| *bytes > STATEMENT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_and_the_memory_of_statements_are_limited() {
        let mut kept = KeptStatements::new();
        for number in 0..MAX_STATEMENTS {
            assert!(!kept.is_full());
            kept.insert(&format!("SELECT {number}"), number, 1, 100);
        }
        assert!(kept.is_full());
        kept.clear();
        assert!(!kept.is_full() && kept.get("SELECT 1").is_none());
        // A replaced plan counts once.
        for _ in 0..=CONNECTION_BYTES / STATEMENT_BYTES {
            kept.insert("large", 0, 0, STATEMENT_BYTES);
        }
        assert!(kept.is_too_large("large") && !kept.is_full());
        kept.insert("wide", 0, STATEMENT_BYTES / COLUMN_BYTES + 1, 0);
        assert!(kept.is_too_large("wide"));
        for number in 0..CONNECTION_BYTES / STATEMENT_BYTES {
            kept.insert(&format!("SELECT {number}"), number, 0, STATEMENT_BYTES);
        }
        assert!(kept.is_full());
        for number in 0..CONNECTION_BYTES / STATEMENT_BYTES {
            kept.remove(&format!("SELECT {number}"));
        }
        assert!(!kept.is_full());
    }
}
