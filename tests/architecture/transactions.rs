//! Finds statements on the pool of the host's database in a function that has a transaction open. On SQLite, the transaction
//! has the turn to write (`db::host_pool::write_turn`): a statement that writes would wait for it until its patience ends.
//! On PostgreSQL it would need a second connection, which it may not get while each transaction waits for one.

use super::sources;

/// Returns the numbers of these lines. A transaction is open from its begin to its commit, or to the end of the function.
fn statements_beside_transactions(text: &str) -> Vec<usize> {
    let mut is_open = false;
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.starts_with('}') || line.contains(".commit().await") {
            is_open = false;
        }
        let calls_another = line.contains("(db, ") && line.contains(".await");
        if is_open && (line.contains("(pool)") || calls_another) {
            found.push(number);
        }
        if line.contains(".begin_with(") || line.contains(".begin().await") {
            is_open = true;
        }
    }
    found
}

#[test]
fn no_statement_runs_beside_the_transaction_of_its_function() {
    let mut begun = 0;
    let mut wrong = Vec::new();
    for (file, text) in sources("host/src").into_iter().filter(|(file, _)| file.starts_with("db/")) {
        begun += text.matches(".begin_with(begin)").count();
        wrong.extend(statements_beside_transactions(&text).into_iter().map(|line| format!("{file}:{line}")));
    }
    assert!(begun > 40, "only {begun} transactions were found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_statement_on_the_pool_and_a_call_with_the_database_are_found() {
    let function =
        |body: &str| format!("async fn f() {{\n    let mut tx = pool.begin_with(begin).await?;\n{body}\n}}\n");
    let inside = "    a.execute(&mut *tx).await?;\n    publish!(db, tx, cause, event);\n    tx.commit().await?;";
    assert_eq!(statements_beside_transactions(&function(inside)), [0_usize; 0]);
    let afterwards = "    tx.commit().await?;\n    b.execute(pool).await?;";
    assert_eq!(statements_beside_transactions(&function(afterwards)), [0_usize; 0]);
    let beside = "    a.execute(&mut *tx).await?;\n    b.fetch_all(pool).await?;\n    find(db, id).await?;";
    assert_eq!(statements_beside_transactions(&function(beside)), [4, 5]);
    let next =
        format!("{}async fn g() {{\n    c.execute(pool).await\n}}\n", function("    a.execute(&mut *tx).await?;"));
    assert_eq!(statements_beside_transactions(&next), [0_usize; 0]);
}
