//! The databases of a host, and the macro that runs one test on each of them.

use super::host::{Setup, TestHost};

/// The database of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// A file in the data directory.
    Sqlite,
    /// The test's own database in the cluster of the test run.
    Postgres,
}

/// Runs a test on a fresh host. If PostgreSQL is not installed, its half is reported as skipped (see `postgres`).
pub(crate) async fn run(backend: Backend, setup: Setup, test: impl AsyncFnOnce(&mut TestHost)) {
    let Some(mut host) = TestHost::start(backend, setup).await else { return };
    test(&mut host).await;
    host.stop().await;
}

/// Turns functions that take a `&TestHost` or a `&mut TestHost` into tests: `name::sqlite` and `name::postgres`. A
/// set-up of the host other than the default one follows after `=>`.
macro_rules! both {
    ($($name:ident $(=> $setup:expr)?),* $(,)?) => {
        $(mod $name {
            #[allow(unused_imports, reason = "only some set-ups use it")]
            use super::*;
            use crate::support::{Backend, Setup, TestHost, backend::run};

            fn set_up() -> Setup {
                #[allow(unused_variables, reason = "the second one shadows it")]
                let setup = Setup::default();
                $(let setup = $setup;)?
                setup
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                run(Backend::Sqlite, set_up(), async |host: &mut TestHost| super::$name(host).await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                run(Backend::Postgres, set_up(), async |host: &mut TestHost| super::$name(host).await).await;
            }
        })*
    };
}
pub(crate) use both;
