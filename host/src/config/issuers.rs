//! The OpenID Connect issuers that people can sign in with: `[auth.issuers.NAME]`, or `WHARF_ISSUER_NAME_*`. Owns their
//! settings. A variable has the name in upper case, with `_` for `-`; an issuer may be in both places. `auth::oidc`
//! speaks to them.

use std::collections::BTreeSet;

use super::finding::Origin;
use super::reader::Reader;
use super::secret::Secret;
use super::{issuer_kind, kind};
use crate::id::IssuerName;

/// The table of all issuers in the file.
const TABLE: &str = "auth.issuers";
/// The beginning of every variable of an issuer.
const VARIABLE: &str = "WHARF_ISSUER_";
/// The ends of these variables.
const FIELDS: [&str; 7] =
    ["_URL", "_CLIENT_ID", "_CLIENT_SECRET", "_CLIENT_SECRET_FILE", "_SCOPES", "_LABEL", "_CREATE_ACCOUNTS"];
/// The most issuers: a page for signing in shows all of them.
const MAX_ISSUERS: usize = 20;

/// An issuer.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// The name in paths and settings.
    pub name: IssuerName,
    /// The URL, exactly as the issuer writes it in its own documents.
    pub url: String,
    /// The name of this host at the issuer.
    pub client_id: String,
    /// The secret of this host at the issuer; `None` for a public client.
    pub client_secret: Option<Secret>,
    /// The requested scopes, besides `openid`.
    pub scopes: Vec<String>,
    /// The name for people.
    pub label: String,
    /// Whether a person without an account gets one; `None` means as `auth.signup` says.
    pub create_accounts: Option<bool>,
}

impl Issuer {
    /// Reads all issuers, in the order of their names.
    pub(super) fn read_all(reader: &mut Reader<'_>) -> Vec<Self> {
        let names = names(reader);
        if names.len() > MAX_ISSUERS {
            reader.refuse(TABLE, Origin::Default, format!("has {} issuers; the most is {MAX_ISSUERS}", names.len()));
        }
        names.into_iter().take(MAX_ISSUERS).filter_map(|name| Self::read(reader, name)).collect()
    }

    fn read(reader: &mut Reader<'_>, name: IssuerName) -> Option<Self> {
        let key = |field: &str| format!("{TABLE}.{name}.{field}");
        let upper = name.as_str().to_ascii_uppercase().replace('-', "_");
        let variable = |field: &str| format!("{VARIABLE}{upper}_{field}");
        let url = reader.read(key("url"), variable("URL"), &issuer_kind::url().optional(), None);
        let client_id = reader.read(key("client_id"), variable("CLIENT_ID"), &kind::line(255).optional(), None);
        let secret = issuer_kind::client_secret().optional();
        let client_secret = reader.read(key("client_secret"), variable("CLIENT_SECRET"), &secret, None);
        let usual = vec!["email".to_owned(), "profile".to_owned()];
        let scopes = reader.read(key("scopes"), variable("SCOPES"), &issuer_kind::scopes(), usual);
        let label = reader.read(key("label"), variable("LABEL"), &kind::line(60), name.to_string());
        let create = kind::boolean().optional();
        let create_accounts = reader.read(key("create_accounts"), variable("CREATE_ACCOUNTS"), &create, None);
        for (field, is_missing) in [("url", url.is_none()), ("client_id", client_id.is_none())] {
            if is_missing && !reader.is_refused(&key(field)) {
                let origin = reader.origin(&key("url"));
                let text = format!("is not set ({}); every issuer needs it", variable(&field.to_ascii_uppercase()));
                reader.refuse(&key(field), origin, text);
            }
        }
        let (url, client_id) = (url?, client_id?);
        Some(Self { name, url, client_id, client_secret, scopes, label, create_accounts })
    }
}

/// Returns the names of all issuers in the file and in variables. A table with another name is a finding; the settings
/// in it are unknown keys.
fn names(reader: &Reader<'_>) -> BTreeSet<IssuerName> {
    let tables = reader.keys_below(TABLE).filter_map(|rest| rest.split('.').next()).map(str::to_owned);
    let variables = reader.variables(VARIABLE).filter_map(|rest| {
        let name = FIELDS.iter().filter_map(|field| rest.strip_suffix(*field)).min_by_key(|name| name.len())?;
        Some(name.to_ascii_lowercase().replace('_', "-"))
    });
    tables.chain(variables).filter_map(|name| name.parse().ok()).collect()
}
