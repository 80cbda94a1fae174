//! The functions and types of the server that a plugin may use. PostgreSQL lets every role call functions that look up
//! the names of other roles' objects, run SQL from a string, lock or notify the whole database, or change the session.
//!
//! A function may be used if it cannot read the database: all functions of its name are immutable, or implement an
//! operator, and take and return only allowed types. The others must be on the list. The host asks the server which
//! functions exist, because a name before a parenthesis may also be a table or an alias: such a name is refused only if
//! it is a function. So a function of a later version is refused until it is known to be harmless. A name after a dot may
//! call a function too: PostgreSQL reads `(x).f` and `t.f` as `f(x)` and `f(t)` if no column has that name. `statement`
//! refuses the catalogs themselves. [`CurrentAllowlist`] asks again after an upgrade of the server.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use wharf_sql_text::{Dialect, Lexer, RESERVED, Token};

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

/// The function that tells the settings of the session, of the role and of the whole server.
const SETTING_FUNCTION: &str = "current_setting";

/// The settings that a plugin may read: those that the host gives its session, and those that change the form of values.
const SETTINGS: [&str; 14] = [
    "application_name",
    "datestyle",
    "default_transaction_read_only",
    "extra_float_digits",
    "intervalstyle",
    "lock_timeout",
    "search_path",
    "server_version",
    "server_version_num",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
    "transaction_isolation",
    "transaction_read_only",
];

/// Functions that are harmless to others, but that no signal ends: on a large document they run for hours. `xmltable` is
/// no function in the catalogs.
const ENDLESS_FUNCTIONS: [&str; 4] = ["xmlexists", "xmltable", "xpath", "xpath_exists"];

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

/// The major version of the server. Minor versions add no functions.
const QUERY_VERSION: &str = "SELECT current_setting('server_version_num')::int / 10000";

/// Returns the words of lists that are separated by blanks.
fn words(lists: &'static [&'static str]) -> impl Iterator<Item = &'static str> {
    lists.iter().flat_map(|list| list.split(' '))
}

/// The list of the server that runs now. A new connection to a server of another version loads the list again, because
/// the functions that an upgrade added would pass as unknown names.
pub(in crate::db::plugin_data) struct CurrentAllowlist {
    host: PgHostPool,
    loaded: tokio::sync::Mutex<Option<Arc<Allowlist>>>,
}

impl CurrentAllowlist {
    pub(in crate::db::plugin_data) fn new(host: &PgHostPool) -> Self {
        Self { host: host.clone(), loaded: tokio::sync::Mutex::default() }
    }

    /// Returns the list for a server; `version` is its number, such as 160004. Without a number, the loaded list is taken.
    pub(super) async fn of(&self, version: Option<u32>) -> sqlx::Result<Arc<Allowlist>> {
        let mut loaded = self.loaded.lock().await;
        if let Some(list) = loaded.as_ref().filter(|list| list.is_of(version)) {
            return Ok(Arc::clone(list));
        }
        Ok(Arc::clone(loaded.insert(Arc::new(Allowlist::load(&self.host).await?))))
    }
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
pub(super) struct Allowlist {
    names: HashMap<Box<str>, Meaning>,
    /// The major version of the server that gave the names.
    version: i32,
}

impl Allowlist {
    /// Asks the server for its functions and types.
    async fn load(host: &PgHostPool) -> sqlx::Result<Self> {
        let types: Vec<String> = words(TYPES).map(str::to_owned).collect();
        let functions: Vec<(String, bool)> = sqlx::query_as(QUERY_FUNCTIONS).bind(types).fetch_all(host).await?;
        let types: Vec<String> = sqlx::query_scalar(QUERY_TYPES).fetch_all(host).await?;
        let version: i32 = sqlx::query_scalar(QUERY_VERSION).fetch_one(host).await?;
        let known_functions: HashSet<&str> = words(FUNCTIONS).collect();
        let known_types: HashSet<&str> = words(TYPES).chain(words(NUMBERS_AND_WORDS)).collect();
        let mut names = HashMap::<Box<str>, Meaning>::new();
        for (name, is_harmless) in functions {
            let is_allowed = is_harmless || known_functions.contains(name.as_str());
            let is_allowed = is_allowed && !ENDLESS_FUNCTIONS.contains(&name.as_str());
            let permission = if is_allowed { Permission::Allowed } else { Permission::Refused };
            names.entry(name.to_ascii_lowercase().into()).or_default().function = Some(permission);
        }
        for name in ENDLESS_FUNCTIONS {
            names.entry(name.into()).or_default().function = Some(Permission::Refused);
        }
        for name in types {
            let element = name.strip_prefix('_').unwrap_or(&name);
            names.entry(name.as_str().into()).or_default().is_refused_type = !known_types.contains(element);
        }
        Ok(Self { names, version })
    }

    /// Returns whether it is the list of a server of this version.
    fn is_of(&self, version: Option<u32>) -> bool {
        version.is_none_or(|version| i32::try_from(version / 10_000) == Ok(self.version))
    }

    /// Refuses a statement that calls a function or names a type that is not allowed.
    pub(super) fn check(&self, sql: &str) -> Result<(), DataError> {
        let mut context = Context { defines_index: defines_index(sql), ..Context::default() };
        for (token, range) in Lexer::new(Dialect::Postgres, sql) {
            context.check_argument(token, sql.get(range).unwrap_or_default())?;
            if let Some(name) = name_of(token).map(str::to_ascii_lowercase) {
                let meaning = self.names.get(name.as_str()).copied().unwrap_or_default();
                if meaning.is_refused_type {
                    return Err(refused(&name));
                }
                let is_refused_function = meaning.function == Some(Permission::Refused);
                let has_checked_argument = Argument::of(&name) != Argument::None;
                if context.after_dot && (is_refused_function || has_checked_argument) {
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
        let permission = self.names.get(name.as_str()).and_then(|meaning| meaning.function);
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
    argument: Argument,
}

/// The position in the first argument of a function whose argument is checked.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Argument {
    #[default]
    None,
    /// The name of a sequence begins.
    Sequence,
    /// The name of a setting begins.
    Setting,
    /// The argument was a text; it must end here.
    End,
}

impl Argument {
    /// Returns what the first argument of a function must be.
    fn of(function: &str) -> Self {
        if SEQUENCE_FUNCTIONS.contains(&function) {
            Self::Sequence
        } else if function == SETTING_FUNCTION {
            Self::Setting
        } else {
            Self::None
        }
    }
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
        if let Some(name) = self.last.take() {
            self.argument = Argument::of(&name);
        }
        self.after_dot = false;
    }

    fn other(&mut self, token: Token<'_>) {
        self.after_dot = token == Token::Symbol(b'.');
        if !self.after_dot {
            self.last = None;
        }
    }

    /// Checks that the first argument of a function on sequences or settings is the text of a name.
    fn check_argument(&mut self, token: Token<'_>, text: &str) -> Result<(), DataError> {
        let name = text.strip_prefix('\'').unwrap_or_default();
        match self.argument {
            Argument::None => Ok(()),
            Argument::Sequence => {
                self.argument = Argument::End;
                let first = name.chars().next();
                let is_name = first.is_some_and(|first| first.is_alphabetic() || first == '_' || first == '"');
                if !is_name {
                    Err(DataError::invalid("a sequence is given by its name: nextval('name')"))
                } else if name.split('.').any(is_reserved) {
                    Err(DataError::invalid(format!("names that begin with {RESERVED} are reserved for the host")))
                } else {
                    Ok(())
                }
            }
            Argument::Setting => {
                self.argument = Argument::End;
                let name = name.trim_end_matches('\'');
                let is_known = SETTINGS.iter().any(|setting| name.eq_ignore_ascii_case(setting));
                if is_known { Ok(()) } else { Err(DataError::invalid(OTHER_SETTING)) }
            }
            Argument::End => {
                self.argument = Argument::None;
                let is_end = matches!(token, Token::Symbol(b')' | b','));
                if is_end { Ok(()) } else { Err(DataError::invalid("the name of a sequence or setting is one text")) }
            }
        }
    }
}

const OTHER_SETTING: &str = "current_setting tells only settings of the plugin's own session, such as 'TimeZone'";

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

/// Returns whether a part of the name of a sequence is reserved for the host, in the form in which a text gives it.
fn is_reserved(part: &str) -> bool {
    let name = part.trim_start_matches(|c: char| c.is_whitespace() || c == '"');
    name.get(..RESERVED.len()).is_some_and(|head| head.eq_ignore_ascii_case(RESERVED))
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
        let mut names: HashMap<Box<str>, Meaning> =
            ["lower", "now", "nextval", "setval", "position", "current_setting"]
                .into_iter()
                .map(|name| function(name, Permission::Allowed))
                .chain(["format_type", "set_config", "ts_stat"].map(|name| function(name, Permission::Refused)))
                .collect();
        names.insert("aclitem".into(), Meaning { function: None, is_refused_type: true });
        Allowlist { names, version: 16 }
    }

    #[test]
    fn another_major_version_needs_another_list() {
        let is_of = |version| allowlist().is_of(version);
        assert!(is_of(Some(160_000)) && is_of(Some(160_011)) && is_of(None));
        assert!(!is_of(Some(170_000)) && !is_of(Some(150_012)));
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
            "SELECT nextval('item_id_seq'), setval('\"Item\"', 1), currval('shop.my_wharf_seq')",
            "SELECT current_setting('TimeZone'), current_setting ( 'search_path', true )",
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
            "SELECT nextval('_wharf_outbox_id_seq')",
            "SELECT setval('\"_wharf_outbox_id_seq\"', 1)",
            "SELECT setval('plugin_shop . _Wharf_outbox_id_seq', 1)",
            "SELECT currval('\"plugin_shop\".\"_wharf_outbox_id_seq\"')",
            "SELECT (('SELECT 1'::text).ts_stat).word",
            "SELECT ('SELECT 1'::text) . /* */ -- \n \"TS_stat\"",
            "SELECT (('SELECT 1'::text).ts_stat).*",
            "SELECT x.ts_stat FROM unnest(ARRAY['SELECT 1']) x",
            "SELECT a.b.ts_stat FROM a.b",
            "SELECT (a)[1].ts_stat FROM t",
            "SELECT $1.ts_stat",
            "SELECT current_setting('data_directory')",
            "SELECT current_setting($1)",
            "SELECT current_setting(name) FROM t",
            "SELECT current_setting('time' || 'zone')",
            "SELECT current_setting(E'timezone')",
            "SELECT ('data_directory'::text).current_setting",
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
