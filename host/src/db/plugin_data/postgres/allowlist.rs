//! The functions and types of the server that a plugin may use. PostgreSQL lets every role call functions that look up
//! the names of other roles' objects, run SQL from a string, lock or notify the whole database, or change the session.
//!
//! A function may be used if it cannot read the database: all functions of its name are immutable, or implement an
//! operator, and take and return only allowed types. The others must be on the list. The host asks the server which
//! functions exist, because a name before a parenthesis may also be a table or an alias: such a name is refused only if
//! it is a function. So a function of a later version is refused until it is known to be harmless. A name after a dot may
//! call a function too: PostgreSQL reads `(x).f` and `t.f` as `f(x)` and `f(t)` if no column has that name. `statement`
//! refuses the catalogs themselves.

use std::collections::{HashMap, HashSet};
use wharf_sql_text::{Dialect, Lexer, Token};

use crate::db::host_pool::PgHostPool;
use crate::db::plugin_data::error::DataError;

/// The types that a plugin may use, as pg_type names them. A value of any other type of the catalogs may name an object.
const TYPES: &[&str] = &[
    // Scalars.
    "bool bytea char name int8 int2 int4 text xml json jsonb jsonpath float4 float8 money numeric bpchar",
    "varchar date time timestamp timestamptz interval timetz bit varbit uuid tsvector tsquery macaddr",
    "macaddr8 inet cidr",
    // Geometry and ranges.
    "point lseg path box polygon line circle int4range numrange tsrange tstzrange daterange int8range",
    "int4multirange nummultirange tsmultirange tstzmultirange datemultirange int8multirange",
    // Pseudo-types, which stand for allowed types.
    "any anyelement anyarray anynonarray anyenum anyrange anymultirange anycompatible anycompatiblearray",
    "anycompatiblenonarray anycompatiblerange anycompatiblemultirange record trigger void cstring",
];

/// Types that are only numbers, and words that are also names of pseudo-types. Their names may appear in a statement, but
/// a function is not harmless because it takes only them.
const NUMBERS_AND_WORDS: &[&str] =
    &["oid oidvector int2vector xid xid8 cid tid refcursor internal unknown event_trigger"];

/// Harmless functions that depend on the time, on settings or on sequences. None returns a type of the catalogs, such as
/// `pg_typeof` does: in a UNION, PostgreSQL converts numbers to that type, and shows them as the names of objects.
const FUNCTIONS: &[&str] = &[
    // Time and randomness.
    "age clock_timestamp date date_add date_part date_subtract date_trunc extract gen_random_uuid",
    "make_timestamptz now overlaps pg_sleep random random_normal setseed statement_timestamp time timeofday",
    "timestamp timestamptz timetz timezone transaction_timestamp uuidv4 uuidv7",
    // Text and numbers.
    "array_sample array_shuffle array_to_string concat concat_ws convert convert_from convert_to format",
    "in_range int8 length max min money numeric pg_column_size quote_literal quote_nullable to_char",
    "to_date to_number to_timestamp",
    // Plain numbers, which are also ordinary names of columns.
    "oid xid",
    // Sets and enums.
    "enum_first enum_last enum_range generate_series",
    // JSON and XML.
    "array_to_json json_agg json_agg_strict json_build_array json_build_object json_object_agg",
    "json_object_agg_strict json_object_agg_unique json_object_agg_unique_strict json_populate_record",
    "json_populate_recordset json_to_record json_to_recordset json_to_tsvector jsonb_agg jsonb_agg_strict",
    "jsonb_build_array jsonb_build_object jsonb_object_agg jsonb_object_agg_strict jsonb_object_agg_unique",
    "jsonb_object_agg_unique_strict jsonb_path_exists_tz jsonb_path_match_tz jsonb_path_query_array_tz",
    "jsonb_path_query_first_tz jsonb_path_query_tz jsonb_populate_record jsonb_populate_recordset",
    "jsonb_to_record jsonb_to_recordset jsonb_to_tsvector row_to_json to_json to_jsonb xml xml_is_well_formed",
    // Full-text search with a configuration by name.
    "phraseto_tsquery plainto_tsquery to_tsquery to_tsvector ts_headline",
    "tsvector_update_trigger tsvector_update_trigger_column websearch_to_tsquery",
    // Samples, the plugin's own session and sequences.
    "bernoulli current_database current_schema current_schemas current_setting currval lastval nextval setval",
    "suppress_redundant_updates_trigger system version",
    // Extensions.
    "gen_random_bytes gen_salt unaccent uuid_generate_v1 uuid_generate_v1mc uuid_generate_v4",
];

/// Functions that find a sequence by its name, or by the number of any object: the errors would name the object.
const SEQUENCE_FUNCTIONS: [&str; 3] = ["currval", "nextval", "setval"];

/// The names of functions outside the schemas of the host and of plugins, and whether all of that name are harmless. $1
/// lists the types.
const QUERY_FUNCTIONS: &str = "
    SELECT p.proname::text, bool_and(
        (p.provolatile = 'i' OR p.provolatile = 's' AND EXISTS (SELECT FROM pg_operator o WHERE o.oprcode = p.oid))
        AND (n.nspname = 'pg_catalog' OR l.lanname = 'c')
        AND NOT EXISTS (
            SELECT FROM pg_type t WHERE t.oid = ANY (p.proargtypes::oid[] || p.prorettype)
            AND t.typnamespace = 'pg_catalog'::regnamespace AND regexp_replace(t.typname, '^_', '') <> ALL ($1)))
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
    WHERE n.nspname <> 'wharf' AND n.nspname NOT LIKE 'plugin\\_%' GROUP BY 1";

/// The names of the types of the catalogs, without those of tables.
const QUERY_TYPES: &str =
    "SELECT typname::text FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typrelid = 0";

/// Returns the words of lists that are separated by blanks.
fn words(lists: &'static [&'static str]) -> impl Iterator<Item = &'static str> {
    lists.iter().flat_map(|list| list.split(' '))
}

/// The meaning of a name on the server.
#[derive(Debug, Clone, Copy, Default)]
struct Meaning {
    function: Option<Permission>,
    is_refused_type: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permission {
    Allowed,
    Refused,
}

/// The permissions of the server's functions and types, by name.
#[derive(Debug)]
pub(in crate::db::plugin_data) struct Allowlist(HashMap<Box<str>, Meaning>);

impl Allowlist {
    /// Asks the server for its functions and types.
    pub(in crate::db::plugin_data) async fn load(host: &PgHostPool) -> sqlx::Result<Self> {
        let types: Vec<String> = words(TYPES).map(str::to_owned).collect();
        let functions: Vec<(String, bool)> = sqlx::query_as(QUERY_FUNCTIONS).bind(types).fetch_all(host).await?;
        let types: Vec<String> = sqlx::query_scalar(QUERY_TYPES).fetch_all(host).await?;
        let known_functions: HashSet<&str> = words(FUNCTIONS).collect();
        let known_types: HashSet<&str> = words(TYPES).chain(words(NUMBERS_AND_WORDS)).collect();
        let mut names = HashMap::<Box<str>, Meaning>::new();
        for (name, is_harmless) in functions {
            let is_allowed = is_harmless || known_functions.contains(name.as_str());
            let permission = if is_allowed { Permission::Allowed } else { Permission::Refused };
            names.entry(name.to_ascii_lowercase().into()).or_default().function = Some(permission);
        }
        for name in types {
            let element = name.strip_prefix('_').unwrap_or(&name);
            names.entry(name.as_str().into()).or_default().is_refused_type = !known_types.contains(element);
        }
        Ok(Self(names))
    }

    /// Refuses a statement that calls a function or names a type that is not allowed.
    pub(super) fn check(&self, sql: &str) -> Result<(), DataError> {
        let mut context = Context { defines_index: defines_index(sql), ..Context::default() };
        for (token, range) in Lexer::new(Dialect::Postgres, sql) {
            context.check_sequence(token, sql.get(range).unwrap_or_default())?;
            if let Some(name) = name_of(token).map(str::to_ascii_lowercase) {
                let meaning = self.0.get(name.as_str()).copied().unwrap_or_default();
                if meaning.is_refused_type {
                    return Err(refused(&name));
                }
                let is_refused_function = meaning.function == Some(Permission::Refused);
                if context.after_dot && (is_refused_function || SEQUENCE_FUNCTIONS.contains(&name.as_str())) {
                    return Err(refused_after_dot(&name));
                }
                context.name(name);
            } else if token == Token::Symbol(b'(') {
                self.check_call(&context)?;
                context.begin_arguments();
            } else {
                context.other(token);
            }
        }
        Ok(())
    }

    /// Checks the name before a parenthesis.
    fn check_call(&self, context: &Context) -> Result<(), DataError> {
        let Some(name) = &context.last else { return Ok(()) };
        let permission = self.0.get(name.as_str()).and_then(|meaning| meaning.function);
        // A name with a schema is a function, unless it is the table of an INSERT, a definition or a reference.
        let is_call = permission.is_some() || (context.is_qualified && !context.is_table);
        if is_call && permission != Some(Permission::Allowed) { Err(refused(name)) } else { Ok(()) }
    }
}

/// The tokens before the present one, as far as they tell its meaning.
#[derive(Default)]
struct Context {
    /// The statement is a CREATE INDEX: only there can ON, a table and a parenthesis follow each other. In a JOIN, an
    /// expression follows ON.
    defines_index: bool,
    /// The name directly before.
    last: Option<String>,
    /// The name has a schema or a table before it.
    is_qualified: bool,
    /// The name follows a word that a table follows.
    is_table: bool,
    after_dot: bool,
    argument: SequenceArgument,
}

/// The position in the first argument of a function on sequences.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum SequenceArgument {
    #[default]
    None,
    /// The argument begins.
    Start,
    /// The argument was a text; it must end here.
    End,
}

impl Context {
    fn name(&mut self, name: String) {
        const BEFORE_TABLES: [&str; 5] = ["into", "references", "table", "view", "exists"];
        self.is_qualified = self.after_dot;
        if !self.after_dot {
            self.is_table = self.last.as_deref().is_some_and(|word| {
                BEFORE_TABLES.contains(&word) || self.defines_index && matches!(word, "on" | "only")
            });
        }
        self.after_dot = false;
        self.last = Some(name);
    }

    fn begin_arguments(&mut self) {
        if self.last.take().is_some_and(|name| SEQUENCE_FUNCTIONS.contains(&name.as_str())) {
            self.argument = SequenceArgument::Start;
        }
        self.after_dot = false;
    }

    fn other(&mut self, token: Token<'_>) {
        self.after_dot = token == Token::Symbol(b'.');
        if !self.after_dot {
            self.last = None;
        }
    }

    /// Checks that the first argument of a function on sequences is the text of a name.
    fn check_sequence(&mut self, token: Token<'_>, text: &str) -> Result<(), DataError> {
        let is_valid = match self.argument {
            SequenceArgument::None => return Ok(()),
            SequenceArgument::Start => {
                self.argument = SequenceArgument::End;
                let first = text.strip_prefix('\'').and_then(|name| name.chars().next());
                first.is_some_and(|first| first.is_alphabetic() || first == '_' || first == '"')
            }
            SequenceArgument::End => {
                self.argument = SequenceArgument::None;
                matches!(token, Token::Symbol(b')' | b','))
            }
        };
        if is_valid { Ok(()) } else { Err(DataError::invalid("a sequence is given by its name: nextval('name')")) }
    }
}

fn refused(name: &str) -> DataError {
    DataError::invalid(format!("{name} is not allowed: it reaches beyond the plugin's own data"))
}

fn refused_after_dot(name: &str) -> DataError {
    DataError::invalid(format!(
        ".{name} is not allowed: PostgreSQL can read it as a call of {name}, which reaches beyond the plugin's own data"
    ))
}

/// Returns whether a statement begins with CREATE INDEX or CREATE UNIQUE INDEX.
fn defines_index(sql: &str) -> bool {
    let mut words = Lexer::new(Dialect::Postgres, sql).map(|(token, _)| token);
    let is = |token: Option<Token<'_>>, name: &str| match token {
        Some(Token::Word(word)) => word.eq_ignore_ascii_case(name),
        _ => false,
    };
    if !is(words.next(), "create") {
        return false;
    }
    let second = words.next();
    is(second, "index") || is(second, "unique") && is(words.next(), "index")
}

/// Returns a name. PostgreSQL folds bare names. Hardly any name of the catalogs has an upper-case letter, so quoted names
/// are folded as well.
fn name_of(token: Token<'_>) -> Option<&str> {
    match token {
        Token::Word(word) => Some(word),
        Token::Name(quoted) => quoted.get(1..quoted.len().saturating_sub(1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowlist() -> Allowlist {
        let function =
            |name: &str, permission| (name.into(), Meaning { function: Some(permission), is_refused_type: false });
        let mut names: HashMap<Box<str>, Meaning> = ["lower", "now", "nextval", "setval", "position"]
            .into_iter()
            .map(|name| function(name, Permission::Allowed))
            .chain(["format_type", "set_config", "ts_stat"].map(|name| function(name, Permission::Refused)))
            .collect();
        names.insert("aclitem".into(), Meaning { function: None, is_refused_type: true });
        Allowlist(names)
    }

    #[test]
    fn a_name_before_a_parenthesis_is_refused_only_if_it_is_another_function() {
        let allowlist = allowlist();
        for sql in [
            "SELECT lower('A'), \"lower\"('A'), LOWER ('A'), now() FROM (VALUES (1, 2)) v (a, b)",
            "WITH x (a) AS (SELECT 1), y (b) AS (SELECT 2) SELECT a IN (1), b = ANY ($1) FROM x, y",
            "INSERT INTO shop.item (id) VALUES (1) ON CONFLICT (id) DO NOTHING",
            "CREATE TABLE shop.t (a numeric(10, 2) REFERENCES shop.item (id), CHECK (a > 0))",
            "SELECT format_type, 'format_type(1)' AS set_config FROM t -- format_type(1)",
            "SELECT nextval('item_id_seq'), setval('\"Item\"', 1)",
            "SELECT t.name, t.position, (t.place).lower, ts_stat, nextval, 'x.ts_stat', .5 ts_stat, t.* FROM shop.t",
            "CREATE INDEX i ON shop.t (a)",
            "create unique index on only shop.t (a)",
        ] {
            assert_eq!(allowlist.check(sql), Ok(()), "{sql}");
        }
        for sql in [
            "SELECT format_type(1, 2)",
            "SELECT pg_catalog . \"format_type\" /* */ (1, 2)",
            "SELECT Set_Config('a', 'b', true)",
            "SELECT public.anything(1)",
            "SELECT CAST('x' AS aclitem)",
            "SELECT 'x'::\"aclitem\"",
            "SELECT nextval(16400)",
            "SELECT nextval('16400')",
            "SELECT nextval(id) FROM t",
            "SELECT nextval((16400))",
            "SELECT nextval('a' || 'b')",
            "SELECT setval($1, 1)",
            "SELECT (('SELECT 1'::text).ts_stat).word",
            "SELECT ('SELECT 1'::text) . /* */ -- \n \"TS_stat\"",
            "SELECT (('SELECT 1'::text).ts_stat).*",
            "SELECT x.ts_stat FROM unnest(ARRAY['SELECT 1']) x",
            "SELECT a.b.ts_stat FROM a.b",
            "SELECT (a)[1].ts_stat FROM t",
            "SELECT $1.ts_stat",
            "SELECT ('1'::text).nextval",
            "SELECT s.currval FROM unnest(ARRAY['1']) s",
            "SELECT * FROM a JOIN b ON public.anything(1)",
            "CREATE VIEW index AS SELECT * FROM a JOIN b ON public.anything(1)",
            "CREATE INDEX i ON shop.t (public.anything(a))",
        ] {
            assert!(matches!(allowlist.check(sql), Err(DataError::Invalid(_))), "{sql}");
        }
    }
}
