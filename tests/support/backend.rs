//! Where a host keeps its data, and the macro that runs one test on each of them.

use super::host::{Setup, TestHost};

/// Where a host keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// A file in the data directory.
    Sqlite,
    /// A database of the test's own in the run's cluster.
    Postgres,
}

/// Runs a test on a fresh host. Where there is no PostgreSQL, its half is skipped and says so (see `postgres`).
pub(crate) async fn run(backend: Backend, setup: Setup, test: impl AsyncFnOnce(&mut TestHost)) {
    let Some(mut host) = TestHost::start(backend, setup).await else { return };
    test(&mut host).await;
    host.stop().await;
}

/// Turns functions that take a `&TestHost`, or a `&mut` one, into tests: `name::sqlite` and `name::postgres`. After `=>` stands the set-up
/// of the host, where it is not the usual one.
macro_rules! both {
    ($($name:ident $(=> $setup:expr)?),* $(,)?) => {
        $(mod $name {
            #[allow(unused_imports, reason = "what a set-up names")]
            use super::*;
            use crate::support::{Backend, Setup, TestHost, backend::run};

            fn set_up() -> Setup {
                #[allow(unused_variables, reason = "only the last one counts")]
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
