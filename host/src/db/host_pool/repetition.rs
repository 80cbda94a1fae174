//! The statements that may run a second time, because they change nothing: reads, and the beginning of a transaction. Owns
//! this decision, which a statement gets by its text. A statement that it does not know is never repeated, and it always runs
//! to its end.

/// The words that make a statement with common table expressions a write. A read that calls `replace()` counts as one too.
const WRITES: [&str; 5] = ["INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE"];

/// Returns whether a statement may be repeated. It may call functions that do nothing more at the second time, such as
/// `pg_terminate_backend`.
pub(super) fn is_harmless(sql: &str) -> bool {
    let verb = sql.split_ascii_whitespace().next().unwrap_or_default();
    match verb {
        // A text with several statements may write in a later one.
        _ if sql.contains(';') => false,
        "SELECT" | "BEGIN" => true,
        "WITH" => !words(sql).any(|word| WRITES.iter().any(|write| word.eq_ignore_ascii_case(write))),
        _ => false,
    }
}

fn words(sql: &str) -> impl Iterator<Item = &str> {
    sql.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_statements_that_change_nothing_may_be_repeated() {
        for sql in [
            "SELECT 1",
            "  SELECT\n deleted FROM users WHERE updated_at > $1",
            "BEGIN",
            "WITH RECURSIVE found (a) AS (SELECT updated_at FROM t) SELECT a FROM found",
        ] {
            assert!(is_harmless(sql), "{sql}");
        }
        for sql in [
            "INSERT INTO t (a) SELECT 1",
            "UPDATE t SET a = 1",
            "DELETE FROM t",
            "COMMIT",
            "ALTER ROLE a LOGIN",
            "SELECTED",
            "",
            "SELECT 1; DELETE FROM t",
            "BEGIN; DELETE FROM t",
            "WITH gone AS (DELETE FROM t RETURNING a) SELECT a FROM gone",
            "WITH x AS (SELECT 1)INSERT INTO t SELECT * FROM x",
            "WITH x AS (SELECT 1) update t SET a = 1",
            "WITH x AS (SELECT 1) REPLACE INTO t SELECT * FROM x RETURNING a",
            "WITH x AS (SELECT 1) MERGE INTO t USING x ON TRUE WHEN MATCHED THEN DO NOTHING",
        ] {
            assert!(!is_harmless(sql), "{sql}");
        }
    }
}
