//! sqlx's interface to statements, for the pool and its connections. Each statement passes the time limit of the connection,
//! which is thrown away if its state is unknown afterwards. Owns the repetition of a read whose connection had ended.

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use sqlx::error::BoxDynError;
use sqlx::{Connection as _, Database, Either, Execute, Executor, Postgres, SqlStr, Sqlite};
use tokio::time::timeout;

use super::connection::{HostConnection, HostDatabase};
use super::{HostPool, repetition};

/// Turns a result that has arrived as a whole into the stream that sqlx wants. The results of the host are small.
fn stream_of<'e, T: Send + 'e>(
    all: impl Future<Output = sqlx::Result<Vec<T>>> + Send + 'e,
) -> BoxStream<'e, sqlx::Result<T>> {
    stream::once(all).map_ok(|all| stream::iter(all.into_iter().map(Ok))).try_flatten().boxed()
}

/// A statement whose text can be read before it runs.
struct ReadStatement<DB: Database> {
    sql: SqlStr,
    arguments: Option<DB::Arguments>,
    persistent: bool,
}

impl<DB: Database> ReadStatement<DB> {
    fn of<'q>(mut query: impl Execute<'q, DB>) -> sqlx::Result<Self> {
        let arguments = query.take_arguments().map_err(sqlx::Error::Encode)?;
        Ok(Self { arguments, persistent: query.persistent(), sql: query.sql() })
    }
}

impl<DB: Database> Execute<'_, DB> for ReadStatement<DB> {
    fn sql(self) -> SqlStr {
        self.sql
    }

    /// Connections find their prepared statements by the text.
    fn statement(&self) -> Option<&DB::Statement> {
        None
    }

    fn take_arguments(&mut self) -> Result<Option<DB::Arguments>, BoxDynError> {
        Ok(self.arguments.take())
    }

    fn persistent(&self) -> bool {
        self.persistent
    }
}

/// Implements sqlx's interface for one database: the compiler cannot prove the bounds of a generic implementation.
macro_rules! executor {
    ($db:ty) => {
        impl HostDatabase for $db {
            fn control<'c>(connection: &'c mut Self::Connection, sql: &'static str) -> BoxFuture<'c, sqlx::Result<()>> {
                Box::pin(async move { sqlx::raw_sql(sql).execute(connection).await.map(drop) })
            }

            fn test(connection: &mut Self::Connection) -> BoxFuture<'_, sqlx::Result<()>> {
                Box::pin(connection.ping())
            }
        }

        impl Clone for ReadStatement<$db> {
            fn clone(&self) -> Self {
                Self { sql: self.sql.clone(), arguments: self.arguments.clone(), persistent: self.persistent }
            }
        }

        impl<'c> Executor<'c> for &'c mut HostConnection<$db> {
            type Database = $db;

            fn fetch_many<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxStream<'e, sqlx::Result<Either<<$db as Database>::QueryResult, <$db as Database>::Row>>>
            where
                'c: 'e,
                E: 'q + Execute<'q, $db>,
            {
                stream_of(async move {
                    let limit = self.wait();
                    let ended = timeout(limit, self.start()?.fetch_many(query).try_collect::<Vec<_>>()).await;
                    self.settle(ended)
                })
            }

            fn fetch_optional<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxFuture<'e, sqlx::Result<Option<<$db as Database>::Row>>>
            where
                'c: 'e,
                E: 'q + Execute<'q, $db>,
            {
                Box::pin(async move {
                    let limit = self.wait();
                    let ended = timeout(limit, self.start()?.fetch_optional(query)).await;
                    self.settle(ended)
                })
            }

            fn prepare_with<'e>(
                self,
                sql: SqlStr,
                parameters: &'e [<$db as Database>::TypeInfo],
            ) -> BoxFuture<'e, sqlx::Result<<$db as Database>::Statement>>
            where
                'c: 'e,
            {
                Box::pin(async move {
                    let limit = self.wait();
                    let ended = timeout(limit, self.start()?.prepare_with(sql, parameters)).await;
                    self.settle(ended)
                })
            }
        }

        impl<'p> Executor<'p> for &'p HostPool<$db> {
            type Database = $db;

            fn fetch_many<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxStream<'e, sqlx::Result<Either<<$db as Database>::QueryResult, <$db as Database>::Row>>>
            where
                'p: 'e,
                E: 'q + Execute<'q, $db>,
            {
                stream_of(async move {
                    let query: ReadStatement<$db> = ReadStatement::of(query)?;
                    let mut connection = self.acquire_for(query.sql.as_str()).await?;
                    let again = connection.untested.then(|| query.clone());
                    let result = connection.fetch_many(query).try_collect::<Vec<_>>().await;
                    match again.filter(|_| connection.had_ended(&result)) {
                        Some(query) => {
                            let mut other = self.acquire_for(query.sql.as_str()).await?;
                            other.fetch_many(query).try_collect::<Vec<_>>().await
                        }
                        None => result,
                    }
                })
            }

            fn fetch_optional<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxFuture<'e, sqlx::Result<Option<<$db as Database>::Row>>>
            where
                'p: 'e,
                E: 'q + Execute<'q, $db>,
            {
                Box::pin(async move {
                    let query: ReadStatement<$db> = ReadStatement::of(query)?;
                    let may_write = !repetition::is_harmless(query.sql.as_str());
                    let mut connection = self.acquire_for(query.sql.as_str()).await?;
                    if may_write {
                        // On SQLite, sqlx ends the statement after its first row and does not look whether that committed
                        // it: a full disk would go unnoticed, and a code that can be used once would stay.
                        let results = connection.fetch_many(query).try_collect::<Vec<_>>().await?;
                        return Ok(results.into_iter().find_map(Either::right));
                    }
                    let again = connection.untested.then(|| query.clone());
                    let result = connection.fetch_optional(query).await;
                    match again.filter(|_| connection.had_ended(&result)) {
                        Some(query) => {
                            let mut other = self.acquire_for(query.sql.as_str()).await?;
                            other.fetch_optional(query).await
                        }
                        None => result,
                    }
                })
            }

            fn prepare_with<'e>(
                self,
                sql: SqlStr,
                parameters: &'e [<$db as Database>::TypeInfo],
            ) -> BoxFuture<'e, sqlx::Result<<$db as Database>::Statement>>
            where
                'p: 'e,
            {
                Box::pin(async move { self.acquire().await?.prepare_with(sql, parameters).await })
            }
        }
    };
}
executor!(Sqlite);
executor!(Postgres);
