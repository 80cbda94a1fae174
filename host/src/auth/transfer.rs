//! Import and export of accounts with their hashes, as JSON lines: people can come from another system, and leave,
//! without a new password. Owns the format. Only the machine's own command line uses this module: a hash never leaves
//! through HTTP. Sessions, API keys, second factors and identities of issuers are not part of it.
//!
//! The members of a line are those of Wharf's export. Other systems name some of them differently; these names are
//! accepted too, and unknown members are ignored.

use std::collections::{BTreeSet, HashSet};
use std::io::{BufRead, Read as _};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::password_hashing::NO_PASSWORD;
use super::stored_hash::StoredHash;
use crate::address::{Address, InvalidAddress};
use crate::clock::{Clock, Random, Timestamp};
use crate::db::account_transfer::{self, ImportedUser};
use crate::db::audit::{self, Entry};
use crate::db::user::{self, NewUser};
use crate::db::{Db, role};
use crate::error::{Error, Result};
use crate::id::{RoleName, UserId};
use crate::initiator::Initiator;

/// The longest line, in bytes.
const MAX_LINE: u64 = 64 * 1024;
/// The longest name, in characters.
const MAX_NAME: usize = 255;
/// The number of accounts that are added in one transaction, or read at once.
const BATCH: usize = 200;
/// The number of refused lines that are listed.
const MAX_FINDINGS: usize = 100;

/// One account to be imported.
#[derive(Debug, Deserialize)]
struct Line {
    /// A UUID is kept. Any other id is replaced.
    #[serde(default)]
    id: Value,
    email: String,
    #[serde(default, alias = "hashed_password", alias = "encrypted_password")]
    #[serde(alias = "passwordHash", alias = "password")]
    password_hash: Option<String>,
    #[serde(default, alias = "name")]
    full_name: Option<String>,
    #[serde(default)]
    is_active: Option<bool>,
    #[serde(default)]
    is_superuser: Option<bool>,
    #[serde(default)]
    roles: Option<Vec<String>>,
    #[serde(default, alias = "date_joined", alias = "created")]
    created_at: Option<String>,
    /// `null` means that the address is not verified; absent means that the operator vouches for it.
    #[serde(default, alias = "email_confirmed_at", deserialize_with = "present")]
    email_verified_at: Option<Option<String>>,
    #[serde(default)]
    verified: Option<bool>,
}

/// Tells a member that is `null` from one that is absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// One exported account.
#[derive(Debug, Serialize)]
struct ExportedLine<'a> {
    id: UserId,
    email: &'a str,
    password_hash: &'a str,
    full_name: Option<&'a str>,
    is_active: bool,
    is_superuser: bool,
    roles: &'a [String],
    created_at: Timestamp,
    email_verified_at: Option<Timestamp>,
}

/// How to import.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImportOptions {
    /// Whether superusers of the other system become superusers.
    pub superusers: bool,
    /// Whether the lines are only checked.
    pub dry_run: bool,
}

/// The outcome of an import.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// Accounts that were added, or would be.
    pub imported: u64,
    /// Lines whose address or id an account has already. That account stays as it is.
    pub existing: u64,
    /// Superusers that became ordinary accounts.
    pub ordinary: u64,
    /// Accounts without a password that Wharf can check: their owners set one through a recovery mail.
    pub without_password: u64,
    /// Lines that were refused.
    pub refused: u64,
    /// The first refused lines, with the reasons.
    pub findings: Vec<LineFinding>,
}

/// A refused line.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct LineFinding {
    /// The number of the line, from one.
    pub line: u64,
    /// The reason. It never quotes a hash.
    pub reason: String,
}

impl ImportReport {
    fn refuse(&mut self, line: u64, reason: String) {
        self.refused = self.refused.saturating_add(1);
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(LineFinding { line, reason });
        }
    }
}

/// An account that was read, and the traits that are counted if it is added.
#[derive(Debug)]
struct Account {
    imported: ImportedUser,
    /// Whether a superuser of the other system becomes an ordinary account.
    is_demoted: bool,
    has_password: bool,
}

/// The accounts of earlier lines that a check would have added.
#[derive(Debug, Default)]
struct Earlier {
    addresses: HashSet<String>,
    ids: HashSet<UserId>,
}

/// Imports and exports accounts on a database.
#[derive(Debug)]
pub struct Transfer {
    db: Db,
    clock: Clock,
    random: Random,
}

impl Transfer {
    /// Works on this database.
    pub fn new(db: Db, clock: Clock, random: Random) -> Self {
        Self { db, clock, random }
    }

    /// Imports one account per line. A line that is refused does not end the import, and a repeated import adds only
    /// the accounts that are missing.
    ///
    /// # Errors
    /// The input cannot be read, or the database fails. The accounts of earlier lines stay.
    pub async fn import(&self, mut input: impl BufRead, options: ImportOptions) -> Result<ImportReport> {
        let roles: BTreeSet<String> = account_transfer::role_names(&self.db).await?.into_iter().collect();
        let (mut report, mut earlier) = (ImportReport::default(), Earlier::default());
        let (mut number, mut batch, mut bytes) = (0_u64, Vec::<Account>::new(), Vec::new());
        loop {
            bytes.clear();
            let unreadable = |error| Error::internal("the accounts cannot be read").with_source(error);
            let read = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes).map_err(unreadable)?;
            if read == 0 {
                break;
            }
            number = number.saturating_add(1);
            if bytes.last() != Some(&b'\n') && u64::try_from(read).unwrap_or(MAX_LINE) == MAX_LINE {
                // The rest of the line has no meaning, and what follows may be no text at all.
                report.refuse(number, format!("is longer than {} KiB; the import ends here", MAX_LINE / 1024));
                break;
            }
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            match self.account(&bytes, &roles, options) {
                Ok(account) => batch.push(account),
                Err(reason) => report.refuse(number, reason),
            }
            if batch.len() >= BATCH {
                self.add(std::mem::take(&mut batch), options, &mut earlier, &mut report).await?;
            }
        }
        self.add(batch, options, &mut earlier, &mut report).await?;
        Ok(report)
    }

    async fn add(
        &self,
        batch: Vec<Account>,
        options: ImportOptions,
        earlier: &mut Earlier,
        report: &mut ImportReport,
    ) -> Result<()> {
        let (imported, traits): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|account| (account.imported, (account.is_demoted, account.has_password))).unzip();
        let added = match options.dry_run {
            true => self.check(&imported, earlier).await?,
            false => account_transfer::insert_all(&self.db, &imported).await?,
        };
        for (added, (is_demoted, has_password)) in added.into_iter().zip(traits) {
            if !added {
                report.existing = report.existing.saturating_add(1);
                continue;
            }
            report.imported = report.imported.saturating_add(1);
            report.ordinary = report.ordinary.saturating_add(u64::from(is_demoted));
            report.without_password = report.without_password.saturating_add(u64::from(!has_password));
        }
        Ok(())
    }

    /// Returns whether each account would be added: neither an account nor an earlier line has its address or its id.
    async fn check(&self, imported: &[ImportedUser], earlier: &mut Earlier) -> Result<Vec<bool>> {
        let taken = account_transfer::are_taken(&self.db, imported).await?;
        let is_added = |(ImportedUser { user, .. }, is_taken): (&ImportedUser, bool)| {
            let address = user.email.key().as_str().to_owned();
            let is_added = !is_taken && !earlier.addresses.contains(&address) && !earlier.ids.contains(&user.id);
            if is_added {
                earlier.addresses.insert(address);
                earlier.ids.insert(user.id);
            }
            is_added
        };
        Ok(imported.iter().zip(taken).map(is_added).collect())
    }

    /// Reads one line, or returns the reason why it is refused.
    fn account(&self, bytes: &[u8], roles: &BTreeSet<String>, options: ImportOptions) -> Result<Account, String> {
        // The parser's error is not shown: it may quote the line, and with it a hash.
        let line: Line = serde_json::from_slice(bytes).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => "has no email, or a member of another type".to_owned(),
            _ => format!("is not a JSON object (column {})", error.column()),
        })?;
        let email: Address = line.email.parse().map_err(|error: InvalidAddress| format!("email: {error}"))?;
        let now = self.clock.now();
        let created_at = match line.created_at.as_deref() {
            Some(text) => read_time(text).ok_or("created_at: is not a time such as 2026-11-30T08:00:00Z")?,
            None => now,
        };
        let email_verified_at = match (line.email_verified_at, line.verified) {
            (Some(None), _) | (None, Some(false)) => None,
            (Some(Some(text)), _) => Some(read_time(&text).ok_or("email_verified_at: is not a time")?),
            (None, None | Some(true)) => Some(now),
        };
        if line.full_name.as_ref().is_some_and(|name| name.chars().count() > MAX_NAME || name.contains('\0')) {
            return Err(format!("full_name: has more than {MAX_NAME} characters, or a NUL character"));
        }
        let known_roles = line.roles.map(|names| check_roles(&names, roles)).transpose()?;
        let (password_hash, has_password) = match line.password_hash.filter(|hash| !is_unusable(hash)) {
            None => (NO_PASSWORD.to_owned(), false),
            Some(hash) => match StoredHash::parse(&hash).map(|hash| hash.excess()) {
                None => return Err("password_hash: has an unknown format".to_owned()),
                Some(Some(excess)) => return Err(format!("password_hash: {excess}")),
                Some(None) => (hash, true),
            },
        };
        let is_superuser = line.is_superuser.unwrap_or(false);
        let user = NewUser {
            id: UserId(match line.id.as_str().and_then(|id| id.parse::<Uuid>().ok()) {
                Some(id) => id,
                None => self.random.uuid().map_err(|error| error.report())?,
            }),
            email,
            is_active: line.is_active.unwrap_or(true),
            is_superuser: is_superuser && options.superusers,
            full_name: line.full_name,
            password_hash,
            created_at,
            email_verified_at,
            invited_at: None,
        };
        let names = known_roles.as_ref().map(|roles| roles.iter().map(RoleName::as_str).collect::<Vec<_>>());
        let mut after = json!({ "email": user.email.as_str(), "full_name": user.full_name, "is_active": user.is_active,
            "is_superuser": user.is_superuser });
        // Without the member, the account got the default roles.
        if let (Some(names), Some(members)) = (names, after.as_object_mut()) {
            members.insert("roles".to_owned(), json!(names));
        }
        let entry = Entry::of(&Initiator::terminal(), now, "user.import", format!("user:{}", user.id));
        let imported = ImportedUser { user, roles: known_roles, entry: entry.with_change(None, Some(after)) };
        Ok(Account { imported, is_demoted: is_superuser && !options.superusers, has_password })
    }

    /// Writes every account as a line. Returns the number of accounts. The audit entry comes first: what was written
    /// before a failure has left the host, too.
    ///
    /// # Errors
    /// The database or the output fails.
    pub async fn export(&self, mut write: impl FnMut(&str) -> std::io::Result<()>) -> Result<u64> {
        let all = user::count(&self.db).await?;
        let entry = Entry::of(&Initiator::terminal(), self.clock.now(), "user.export", "users");
        audit::insert(&self.db, &entry.with_detail(json!({ "count": all }))).await?;
        let (mut last, mut count) = (UserId(Uuid::nil()), 0_u64);
        loop {
            let page = account_transfer::page(&self.db, last, i64::try_from(BATCH).unwrap_or(i64::MAX)).await?;
            let Some((end, _)) = page.last() else { break };
            last = end.id;
            for (user, roles) in &page {
                let line = ExportedLine {
                    id: user.id,
                    email: &user.email,
                    password_hash: &user.password_hash,
                    full_name: user.full_name.as_deref(),
                    is_active: user.is_active,
                    is_superuser: user.is_superuser,
                    roles,
                    created_at: user.created_at,
                    email_verified_at: user.email_verified_at,
                };
                let line = serde_json::to_string(&line)
                    .map_err(|error| Error::internal("an account cannot be written as JSON").with_source(error))?;
                write(&line).map_err(|error| Error::io("the accounts cannot be written", error))?;
                count = count.saturating_add(1);
            }
        }
        Ok(count)
    }
}

fn check_roles(names: &[String], known: &BTreeSet<String>) -> Result<Vec<RoleName>, String> {
    // The flag `is_superuser` gives that role.
    let named = names.iter().filter(|name| *name != role::SUPERUSER);
    let check = |name: &String| match name.parse::<RoleName>() {
        Ok(role) if known.contains(name) => Ok(role),
        _ => Err("roles: names a role that does not exist".to_owned()),
    };
    // A role that a line names twice is given once.
    let distinct = named.map(check).collect::<Result<BTreeSet<_>, _>>()?;
    Ok(distinct.into_iter().collect())
}

/// Returns whether a text in place of a hash means that there is no password. Django writes `!` before random letters.
fn is_unusable(hash: &str) -> bool {
    hash.is_empty() || hash.starts_with(['!', '*'])
}

/// Reads a time in RFC 3339, also with a blank before the time of day, or without an offset, which means UTC.
fn read_time(text: &str) -> Option<Timestamp> {
    let text = text.trim().replacen(' ', "T", 1);
    text.parse().or_else(|_| format!("{text}Z").parse()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db;
    use crate::db::audit::search::{self, Filter, Page};

    async fn transfer() -> (tempfile::TempDir, Transfer) {
        let (directory, db) = db::tests::sqlite().await;
        (directory, Transfer::new(db, Clock::manual(Timestamp(1_800_000_000_000_000)), Random::System))
    }

    const BCRYPT: &str = "$2b$04$abcdefghijklmnopqrstuumLLrchw8C2TL6aZwB/A9.xdAmKsKkgW";

    #[tokio::test]
    async fn accounts_of_other_systems_are_imported_once() {
        let (_directory, transfer) = transfer().await;
        let lines = [
            // The FastAPI template, Supabase, PocketBase and Django.
            format!(
                r#"{{"id":"0b1ad1e5-7f0a-4c3d-9d77-1f1b5f0a8d11","email":"a@example.com","is_active":false,"is_superuser":true,"full_name":"A","hashed_password":"{BCRYPT}","created_at":"2024-05-06T07:08:09.123456+00:00"}}"#
            ),
            format!(r#"{{"email":"b@example.com","encrypted_password":"{BCRYPT}","created_at":"2024-05-06 07:08:09+02"}}"#),
            format!(r#"{{"id":"x5c0k2b4q9w1z7e","email":"c@example.com","passwordHash":"{BCRYPT}","name":"C","created":"2024-05-06 07:08:09.123Z","verified":false}}"#),
            r#"{"id":7,"email":"d@example.com","password":"pbkdf2_sha256$1000$Xk3pQ9sLw2Zb$5KPEaZFGhf9DOLr0jLyjuoiST1HyU3Su7smJRWwpySk="}"#.to_owned(),
            r#"{"email":"e@example.com","password":"!randomletters"}"#.to_owned(),
            String::new(),
        ];
        let input = lines.join("\n");
        let checked = ImportOptions { dry_run: true, ..ImportOptions::default() };
        let report = transfer.import(input.as_bytes(), checked).await.unwrap();
        assert_eq!(
            report.findings,
            [LineFinding { line: 2, reason: "created_at: is not a time such as 2026-11-30T08:00:00Z".into() }]
        );
        assert_eq!((report.imported, report.refused), (4, 1));
        assert_eq!(transfer.export(|_| Ok(())).await.unwrap(), 0, "a dry run adds nothing");

        let input = input.replace("+02\"", "+02:00\"");
        let report = transfer.import(input.as_bytes(), ImportOptions::default()).await.unwrap();
        let expected = ImportReport { imported: 5, ordinary: 1, without_password: 1, ..ImportReport::default() };
        assert_eq!(report, expected);
        let events = db::event_stream::after(&transfer.db, 0, 10).await.unwrap();
        let topics: Vec<&str> = events.iter().map(|event| event.topic.as_str()).collect();
        assert_eq!(topics, ["user.created"; 5]);
        let checked = transfer.import(input.as_bytes(), checked).await.unwrap();
        assert_eq!(checked, ImportReport { existing: 5, ..ImportReport::default() }, "a dry run tells what exists");
        let again = transfer.import(input.as_bytes(), ImportOptions::default()).await.unwrap();
        assert_eq!(again, ImportReport { existing: 5, ..ImportReport::default() }, "only added accounts are counted");

        let mut exported = Vec::new();
        transfer
            .export(|line| {
                exported.push(line.to_owned());
                Ok(())
            })
            .await
            .unwrap();
        let first = exported.iter().find(|line| line.contains("a@example.com")).unwrap();
        let first: Value = serde_json::from_str(first).unwrap();
        assert_eq!(
            first,
            json!({
                "id": "0b1ad1e5-7f0a-4c3d-9d77-1f1b5f0a8d11", "email": "a@example.com", "password_hash": BCRYPT,
                "full_name": "A", "is_active": false, "is_superuser": false, "roles": ["member"],
                "created_at": "2024-05-06T07:08:09.123456Z", "email_verified_at": "2027-01-15T08:00:00Z",
            })
        );
        let third = exported.iter().find(|line| line.contains("c@example.com")).unwrap();
        assert!(third.contains(r#""email_verified_at":null"#), "{third}");
        // An export is an import.
        let (_other, other) = self::transfer().await;
        let report = other.import(exported.join("\n").as_bytes(), ImportOptions::default()).await.unwrap();
        assert_eq!((report.imported, report.refused), (5, 0), "{report:?}");
        let mut copy = Vec::new();
        other
            .export(|line| {
                copy.push(line.to_owned());
                Ok(())
            })
            .await
            .unwrap();
        assert_eq!(copy, exported);
    }

    #[tokio::test]
    async fn a_line_that_cannot_be_an_account_is_refused_with_its_reason_and_no_secret() {
        let (_directory, transfer) = transfer().await;
        let lines = [
            "nonsense",
            r#"{"email":1}"#,
            r#"{"email":"nobody"}"#,
            r#"{"email":"a@example.com","password_hash":"hunter2-secret"}"#,
            r#"{"email":"a@example.com","password_hash":"$2b$31$abcdefghijklmnopqrstuumLLrchw8C2TL6aZwB/A9.xdAmKsKkgW"}"#,
            r#"{"email":"a@example.com","roles":["nobody-made-it"]}"#,
            r#"{"email":"a@example.com","password_hash":{"hunter2":1}}"#,
        ];
        let report = transfer.import(lines.join("\n").as_bytes(), ImportOptions::default()).await.unwrap();
        assert_eq!((report.imported, report.refused), (0, 7));
        let reasons: Vec<_> = report.findings.iter().map(|finding| finding.reason.as_str()).collect();
        assert_eq!(
            reasons,
            [
                "is not a JSON object (column 2)",
                "has no email, or a member of another type",
                "email: An email address must have an @-sign.",
                "password_hash: has an unknown format",
                "password_hash: needs more memory or time than a hash may",
                "roles: names a role that does not exist",
                "has no email, or a member of another type",
            ]
        );
        let many = "{}\n".repeat(1000);
        let report = transfer.import(many.as_bytes(), ImportOptions::default()).await.unwrap();
        assert_eq!((report.refused, report.findings.len()), (1000, 100));
        let endless = "x".repeat(1 << 20);
        let report = transfer.import(endless.as_bytes(), ImportOptions::default()).await.unwrap();
        assert_eq!(report.refused, 1);
    }

    #[tokio::test]
    async fn a_role_that_a_line_names_twice_is_given_once_and_is_in_the_audit_log() {
        let (_directory, transfer) = transfer().await;
        let line = r#"{"email":"a@example.com","roles":["member","operator","member"]}"#;
        let report = transfer.import(line.as_bytes(), ImportOptions::default()).await.unwrap();
        assert_eq!((report.imported, report.refused), (1, 0));
        transfer
            .export(|line| {
                assert!(line.contains(r#""roles":["member","operator"]"#), "{line}");
                Ok(())
            })
            .await
            .unwrap();
        let filter = Filter { action: Some("user.import".to_owned()), ..Filter::default() };
        let page = Page { after: None, oldest_first: true, limit: 10 };
        let entries = search::search(&transfer.db, &filter, page).await.unwrap();
        let after: Value = serde_json::from_str(entries[0].after.as_deref().unwrap()).unwrap();
        assert_eq!(after["roles"], json!(["member", "operator"]));
    }

    #[tokio::test]
    async fn a_dry_run_counts_what_the_import_would_add() {
        let (_directory, transfer) = transfer().await;
        let id = r#""id":"0b1ad1e5-7f0a-4c3d-9d77-1f1b5f0a8d11""#;
        let mut lines = vec![
            format!(r#"{{{id},"email":"a@example.com"}}"#),
            // The address in another form, and the id.
            r#"{"email":"A@EXAMPLE.com"}"#.to_owned(),
            format!(r#"{{{id},"email":"b@example.com"}}"#),
        ];
        // The last line repeats an account of another batch.
        lines.extend((0..300).map(|number| format!(r#"{{"email":"{number}@example.com"}}"#)));
        lines.push(r#"{"email":"0@example.com"}"#.to_owned());
        let input = lines.join("\n");
        let options = ImportOptions { dry_run: true, ..ImportOptions::default() };
        let checked = transfer.import(input.as_bytes(), options).await.unwrap();
        assert_eq!((checked.imported, checked.existing, checked.refused), (301, 3, 0));
        assert_eq!(transfer.import(input.as_bytes(), ImportOptions::default()).await.unwrap(), checked);
    }

    #[tokio::test]
    async fn an_export_that_fails_is_in_the_audit_log() {
        let (_directory, transfer) = transfer().await;
        let line = r#"{"email":"a@example.com"}"#;
        transfer.import(line.as_bytes(), ImportOptions::default()).await.unwrap();
        transfer.export(|_| Err(std::io::ErrorKind::BrokenPipe.into())).await.unwrap_err();
        let filter = Filter { action: Some("user.export".to_owned()), ..Filter::default() };
        let page = Page { after: None, oldest_first: true, limit: 10 };
        let entries = search::search(&transfer.db, &filter, page).await.unwrap();
        assert_eq!((entries.len(), entries[0].detail.as_str()), (1, r#"{"count":1}"#));
    }

    #[tokio::test]
    async fn superusers_are_imported_as_such_only_on_request() {
        let (_directory, transfer) = transfer().await;
        let line = r#"{"email":"a@example.com","is_superuser":true,"roles":["superuser"]}"#;
        let options = ImportOptions { superusers: true, ..ImportOptions::default() };
        let report = transfer.import(line.as_bytes(), options).await.unwrap();
        assert_eq!((report.imported, report.ordinary), (1, 0));
        transfer
            .export(|line| {
                assert!(line.contains(r#""is_superuser":true"#), "{line}");
                Ok(())
            })
            .await
            .unwrap();
    }
}
