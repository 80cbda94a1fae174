//! The functions and types of PostgreSQL that plugins can use, and each notation of the others.

use wharf::db::plugin_data::{DataError, Value};

use super::fixture::{Fixture, migration, name, query, scalar, text};
use super::isolation::assert_refused;
use super::isolation::postgres::SESSION;
use crate::support::Backend;

/// PostgreSQL reads `(x).f` and `t.f` as calls too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_function_is_refused_in_every_notation() {
    let one_connection = |config: &mut wharf::config::Config| config.plugins.sql_connections = 1;
    let Some(fixture) = Fixture::new(Backend::Postgres, one_connection).await else { return };
    let database = fixture.tables("shop").await;
    fixture.tables("two").await;
    // A function that the host does not know yet.
    let mut superuser = fixture.superuser().await;
    let later = "CREATE FUNCTION public.later(bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true'";
    sqlx::raw_sql(later).execute(&mut superuser).await.unwrap();
    let session = scalar(&database, SESSION).await;
    for attack in [
        "SELECT (('SELECT to_tsvector(''simple'', nspname) FROM pg_namespace'::text).ts_stat).word",
        "SELECT (('SELECT to_tsvector(set_config(''lock_timeout'', ''0'', false))'::text).ts_stat).word",
        "SELECT (('SELECT to_tsvector(''a'')'::text).ts_stat).*",
        "SELECT ((CAST('SELECT to_tsvector(''a'')' AS text)) . /* */ \"ts_stat\").word",
        "SELECT (x.ts_stat).word FROM unnest(ARRAY['SELECT to_tsvector(''a'')']) AS x",
        "SELECT (('plugin_two'::text).to_regnamespace)::text",
        "SELECT (('plugin_two'::text).To_RegNamespace)::text",
        "SELECT x.to_regnamespace::text FROM unnest(ARRAY['plugin_two']) AS x",
        "SELECT ((ARRAY['plugin_two'])[1].to_regnamespace)::text",
        "SELECT ('1'::text).nextval",
        "SELECT (1259).nextval",
        "SELECT x.\"nextval\" FROM unnest(ARRAY['1']) AS x",
        "SELECT (1::bigint).regclass::text",
        "SELECT count(*) FROM item a JOIN item b ON public.later(1)",
        "SELECT public.later(1)",
        "SELECT (1::bigint).pg_advisory_lock",
    ] {
        assert_refused(&database, attack).await;
        assert_eq!(scalar(&database, SESSION).await, session, "{attack}");
    }
    let bound = query(&database, "SELECT ($1::text).to_regnamespace::text", &[text("plugin_two")]).await;
    assert!(matches!(bound, Err(DataError::Invalid(_))), "{bound:?}");
    let reason = query(&database, "SELECT t.to_regclass FROM item t", &[]).await.unwrap_err();
    assert!(
        matches!(&reason, DataError::Invalid(text) if text.starts_with(".to_regclass is not allowed")),
        "{reason:?}"
    );
    // The lock of the node, whose number each plugin can compute.
    for function in [
        "pg_advisory_lock",
        "pg_advisory_lock_shared",
        "pg_advisory_xact_lock",
        "pg_try_advisory_lock",
        "pg_try_advisory_lock_shared",
        "pg_try_advisory_xact_lock",
        "pg_advisory_unlock",
    ] {
        for attack in [
            format!("SELECT {function}(hashtext('wharf:node'))"),
            format!("SELECT pg_catalog.\"{function}\" (hashtext('wharf:node'))"),
            format!("SELECT (hashtext('wharf:node')::bigint).{function}"),
            format!("SELECT x.{function} FROM hashtext('wharf:node') AS x"),
        ] {
            assert_refused(&database, &attack).await;
        }
    }
    let advisory = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) \
                    WHERE locktype = 'advisory' AND application_name = 'wharf-plugin' AND a.datname = current_database()";
    assert_eq!(sqlx::query_scalar::<_, i64>(advisory).fetch_one(&mut superuser).await.unwrap(), 0);
    for (plugin, attack) in [
        ("view", "CREATE VIEW v AS SELECT (('SELECT to_tsvector(''a'')'::text).ts_stat).word"),
        ("join", "CREATE TABLE t (a int); CREATE VIEW v AS SELECT x.a FROM t x JOIN t y ON public.later(1)"),
        ("default", "CREATE TABLE t (a bigint DEFAULT ('1'::text).nextval)"),
        ("lock", "SELECT (1::bigint).pg_try_advisory_lock"),
    ] {
        let list = [migration("1", attack)];
        assert!(fixture.data.migrate(&name(plugin), &list).await.is_err(), "{attack}");
    }
    // Ordinary names of columns are also names of functions and types.
    let tables = "
        CREATE TYPE place AS (street text, name text);
        CREATE TABLE entry (
            oid bigint, xid bigint, name text, version int, format text, value text, position int, length int, date date,
            text text, type text, \"user\" text, query text, count int, max int, language text, home place
        );
        CREATE INDEX entry_name ON plugin_columns.entry (name);
        CREATE INDEX entry_date ON ONLY plugin_columns.entry (date);
        INSERT INTO entry (oid, xid, name, home) VALUES (7, 8, 'a', ROW('s', 'n'))";
    let columns = name("columns");
    fixture.data.migrate(&columns, &[migration("1", tables)]).await.unwrap();
    let database = fixture.open("columns").await;
    let ordinary = "SELECT t.oid, t.xid, t.name, t.version, t.format, t.value, t.position, t.length, t.date, t.text, t.type, \
                    t.\"user\", t.query, t.count, t.max, t.language, (t.home).street, (t.home).name FROM entry t \
                    JOIN plugin_columns.entry u ON (t.oid = u.oid) AND lower(t.name) = u.name";
    let rows = query(&database, ordinary, &[]).await.unwrap();
    assert_eq!(rows.values[0][..3], [Value::Integer(7), Value::Integer(8), text("a")]);
    fixture.stop().await;
}

/// Neither plugins nor migrations need more functions and types than these.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ordinary_functions_and_types_of_postgres_can_be_used() {
    let Some(fixture) = Fixture::new(Backend::Postgres, |_| ()).await else { return };
    let tables = "
        CREATE TYPE state AS ENUM ('new', 'done');
        CREATE DOMAIN price AS numeric(10, 2) CHECK (value >= 0);
        CREATE SEQUENCE numbers;
        CREATE TABLE entry (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(), number bigint NOT NULL DEFAULT nextval('numbers'),
            name varchar(200) NOT NULL, state state NOT NULL DEFAULT 'new', price price, tags text[] NOT NULL DEFAULT '{}',
            data jsonb NOT NULL DEFAULT '{}', at timestamptz NOT NULL DEFAULT now(), day date DEFAULT CURRENT_DATE,
            span tstzrange, ip inet, place point, took interval(3), file bytea, bits bit(8),
            words tsvector GENERATED ALWAYS AS (to_tsvector('english', name)) STORED,
            CONSTRAINT named CHECK (length(btrim(name)) BETWEEN 1 AND 200), UNIQUE (number)
        );
        CREATE INDEX entry_words ON entry USING gin (words);
        CREATE INDEX entry_lower ON entry (lower(name), (data ->> 'a'));
        CREATE VIEW latest (name, at) AS SELECT name, max(at) FROM entry GROUP BY name;
        CREATE TRIGGER keep BEFORE UPDATE ON entry FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
        INSERT INTO entry (name, price, span, ip) VALUES
            ('one', 1.5, tstzrange(now(), now() + interval '1 day'), '10.0.0.1'), ('two', 2, NULL, NULL)";
    fixture.data.migrate(&name("shop"), &[migration("1", tables)]).await.unwrap();
    let database = fixture.open("shop").await;
    for expression in [
        "coalesce(nullif(name, ''), 'x'), greatest(1, 2), least(1, 2)",
        "lower(name), upper(name), initcap(name), trim(both ' ' from name), substring(name from 1 for 2), left(name, 1)",
        "position('o' in name), strpos(name, 'o'), replace(name, 'o', '0'), split_part(name, 'n', 1), lpad(name, 5, '.')",
        "regexp_replace(name, '[aeiou]', '*', 'g'), name ~* 'ONE', name ILIKE '%n%', overlay(name placing 'x' from 1)",
        "concat(name, number), concat_ws(',', name, number), format('%s-%L', name, number), quote_literal(name)",
        "md5(name), encode(sha256(CAST(name AS bytea)), 'hex'), to_hex(255), ascii('a'), chr(65)",
        "round(price, 1), ceil(price), floor(price), abs(-1), mod(7, 2), power(2, 3), sqrt(4), ln(2), div(7, 2), sign(-1)",
        "random() >= 0, width_bucket(5, 0, 10, 2), trunc(1.7), 7 % 2, 2 ^ 3, |/ 4, 1::numeric(5, 2)",
        "now() - at, age(at), date_trunc('day', at), extract(year from at), date_part('hour', at), at AT TIME ZONE 'UTC'",
        "to_char(at, 'YYYY-MM-DD'), CAST(to_timestamp(0) AS text), make_date(2020, 1, 1), make_interval(days => 1)::text",
        "clock_timestamp(), day + 1, CURRENT_TIMESTAMP, LOCALTIME, (at, at) OVERLAPS (at, at), isfinite(at)",
        "jsonb_build_object('a', name), jsonb_set(data, '{a}', '1'), data @> '{}', data #>> '{a}', jsonb_typeof(data)",
        "to_jsonb(name), json_build_array(1, 2)::text, jsonb_path_query_first(data, '$.a'), row_to_json(e)::text",
        "array_length(tags, 1), cardinality(tags), array_append(tags, 'x')::text, tags @> ARRAY['x'], 'x' = ANY (tags)",
        "array_to_string(tags, ','), string_to_array('a,b', ',')::text, unnest(ARRAY[1])",
        "ts_rank(words, plainto_tsquery('english', 'one')), words @@ websearch_to_tsquery('english', 'one')",
        "lower(span), upper(span), span @> now(), isempty(span), host(ip), family(ip), ip << inet '10.0.0.0/8'",
        "point(1, 2)::text, CAST(place AS text), num_nonnulls(price, span), CAST(file AS text), uuid '0f0e0d0c-0000-0000-0000-000000000000'",
        "enum_range(state)::text, state::text, number::text, bits::text",
        "row_number() OVER (ORDER BY number), lag(name, 1) OVER w, rank() OVER w, ntile(2) OVER w, first_value(name) OVER w",
    ] {
        let sql = format!("SELECT {expression} FROM entry e WINDOW w AS (PARTITION BY state ORDER BY number)");
        let cast = query(&database, &sql, &[]).await;
        let is_fine = match &cast {
            Ok(_) => true,
            // The types of columns that a guest cannot get are another matter.
            Err(DataError::Invalid(reason)) => reason.contains("; cast column"),
            Err(_) => false,
        };
        assert!(is_fine, "{sql}: {cast:?}");
    }
    for sql in [
        "SELECT count(*), count(DISTINCT name), sum(price), avg(price), min(name), max(at), bool_and(true), every(true), \
         string_agg(name, ',' ORDER BY name), stddev(number), array_agg(name)::text, jsonb_agg(name), \
         json_object_agg(name, number)::text, percentile_cont(0.5) WITHIN GROUP (ORDER BY number), \
         mode() WITHIN GROUP (ORDER BY state)::text, count(*) FILTER (WHERE price > 1) FROM entry",
        "SELECT state::text, grouping(state) FROM entry GROUP BY ROLLUP (state)",
        "SELECT v.a, s.n FROM (VALUES (1, 'x'), (2, 'y')) v (a, b), generate_series(1, 3) AS s (n), LATERAL (SELECT v.a) l (c)",
        "WITH RECURSIVE tree (id, depth) AS (SELECT 1, 0 UNION ALL SELECT id + 1, depth + 1 FROM tree WHERE depth < 3), \
         other (x) AS MATERIALIZED (SELECT 1) SELECT * FROM tree, other",
        "SELECT x.a FROM jsonb_to_recordset('[{\"a\": 1}]') AS x (a int)",
        "SELECT key, value FROM jsonb_each_text('{\"a\": 1}')",
        "INSERT INTO entry (name) VALUES ('three') ON CONFLICT (number) DO UPDATE SET name = excluded.name RETURNING number",
        "INSERT INTO plugin_shop.entry (name) SELECT 'four' WHERE NOT EXISTS (SELECT FROM entry WHERE name = 'four')",
        "SELECT nextval('numbers'), currval('numbers'), setval('numbers', 100), lastval()",
        "SELECT name FROM entry TABLESAMPLE bernoulli (100)",
        "DELETE FROM entry USING latest WHERE entry.name = latest.name AND entry.name IN ('three', 'four')",
    ] {
        query(&database, sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    fixture.stop().await;
}
