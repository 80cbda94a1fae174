use std::time::Duration;

use super::*;
use crate::config::Secret;
use crate::error::Kind;
use crate::initiator::Initiator;

const START: Timestamp = Timestamp(1_800_000_000_000_000);

/// Returns a client that signs in.
pub(crate) fn client() -> Client {
    let address = std::net::Ipv4Addr::LOCALHOST.into();
    Client { user_agent: Some("curl".to_owned()), address, request_id: "test".into() }
}

/// The authentication service on an empty database, with a manual clock and cheap hashes.
pub(crate) struct World {
    pub(crate) auth: Auth,
    pub(crate) clock: Clock,
    pub(crate) db: Db,
    _dir: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        let (dir, db) = crate::db::tests::sqlite().await;
        let clock = Clock::manual(START);
        let settings = config::Auth::default();
        let auth = Auth::open(db.clone(), &settings, clock.clone(), Random::System, HashCost::Minimal).await.unwrap();
        Self { auth, clock, db, _dir: dir }
    }

    pub(crate) async fn user(&self, email: &str) -> User {
        self.make(email, false).await
    }

    async fn superuser(&self, email: &str) -> User {
        self.make(email, true).await
    }

    async fn make(&self, email: &str, is_superuser: bool) -> User {
        let account = NewAccount {
            email: email.parse().unwrap(),
            password: Secret::new("changethis"),
            full_name: None,
            is_active: true,
            is_superuser,
        };
        self.auth.create_user(account, &Initiator::host()).await.unwrap()
    }

    async fn sign_in(&self, email: &str) -> IssuedTokens {
        let signed_in = self.auth.sign_in(email, "changethis", &client()).await.unwrap();
        let SignIn::Tokens(tokens) = signed_in else { unreachable!() };
        tokens
    }

    async fn caller(&self, grant: &IssuedTokens) -> Result<Arc<Caller>> {
        self.auth.authenticate(grant.access_token.expose()).await
    }
}

fn code_of<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.expect_err("refused").code().to_string()
}

fn deactivation() -> AccountChange {
    AccountChange { is_active: Some(false), ..AccountChange::default() }
}

fn demotion() -> AccountChange {
    AccountChange { is_superuser: Some(false), ..AccountChange::default() }
}

#[tokio::test]
async fn a_user_signs_in_and_is_authenticated() {
    let world = World::new().await;
    let user = world.user("Jane@Example.com").await;
    assert_eq!(user.email, "Jane@example.com");
    let grant = world.sign_in("jane@EXAMPLE.com").await;
    assert_eq!(grant.expires_in, Duration::from_secs(8 * 24 * 3600));
    let caller = world.caller(&grant).await.unwrap();
    assert_eq!(caller.user, Some(user.clone()));
    let (sessions, count) = world.auth.sessions(user.id, 0, 10).await.unwrap();
    assert_eq!((sessions.len(), count), (1, 1));
    assert_eq!((sessions[0].id, sessions[0].user_agent.as_deref()), (caller.session().unwrap().id, Some("curl")));
}

#[tokio::test]
async fn a_failed_login_has_the_same_text_for_every_reason() {
    let world = World::new().await;
    let user = world.user("a@example.com").await;
    for (email, password) in [("a@example.com", "wrong"), ("b@example.com", "changethis"), ("a\0", ""), ("", "")] {
        let error = world.auth.sign_in(email, password, &client()).await.unwrap_err();
        assert_eq!((error.kind(), error.public()), (&Kind::BadRequest, "Incorrect email or password"));
    }
    world.auth.update_user(user.id, deactivation(), &Initiator::host()).await.unwrap();
    assert_eq!(code_of(world.auth.sign_in("a@example.com", "wrong", &client()).await), "incorrect_credentials");
    let error = world.auth.sign_in("a@example.com", "changethis", &client()).await.unwrap_err();
    assert_eq!((error.kind(), error.public()), (&Kind::BadRequest, "Inactive user"));
}

#[tokio::test]
async fn an_outdated_hash_is_replaced_at_the_next_login() {
    let world = World::new().await;
    let user = world.user("a@example.com").await;
    let stored = async || db::user::find(&world.db, user.id).await.unwrap().unwrap().password_hash;
    let current = stored().await;
    world.sign_in("a@example.com").await;
    assert_eq!(stored().await, current, "a current hash stays");
    db::user::rehash(&world.db, user.id, &current, &bcrypt::hash("changethis", 4).unwrap()).await.unwrap();
    world.sign_in("a@example.com").await;
    assert!(stored().await.starts_with("$argon2id$"));
    world.sign_in("a@example.com").await;
}

#[tokio::test]
async fn a_hash_of_another_cost_is_replaced_at_the_next_login() {
    let world = World::new().await;
    let user = world.user("a@example.com").await;
    for (memory_kib, passes) in [(128, 1), (128, 2), (64, 2)] {
        let settings =
            config::Auth { hash_memory_bytes: memory_kib * 1024, hash_passes: passes, ..config::Auth::default() };
        let (db, clock) = (world.db.clone(), world.clock.clone());
        let auth = Auth::open(db, &settings, clock, Random::System, HashCost::Configured).await.unwrap();
        auth.sign_in("a@example.com", "changethis", &client()).await.unwrap();
        let stored = db::user::find(&world.db, user.id).await.unwrap().unwrap().password_hash;
        let expected = format!("$argon2id$v=19$m={memory_kib},t={passes},p=1$");
        assert!(stored.starts_with(&expected), "{stored}");
        auth.sign_in("a@example.com", "changethis", &client()).await.unwrap();
    }
}

#[tokio::test]
async fn unknown_addresses_cost_as_much_as_the_only_account_before_and_after_its_hash_is_replaced() {
    let world = World::new().await;
    world.user("a@example.com").await;
    let settings = config::Auth { hash_memory_bytes: 128 * 1024, hash_passes: 1, ..config::Auth::default() };
    let (db, clock) = (world.db.clone(), world.clock.clone());
    let auth = Auth::open(db, &settings, clock, Random::System, HashCost::Configured).await.unwrap();
    // The password is that of the decoy.
    let guess = async || {
        assert_eq!(code_of(auth.sign_in("nobody@example.com", "changethis", &client()).await), "incorrect_credentials");
        auth.0.decoys.find("nobody@example.com").unwrap()
    };
    let decoy = guess().await;
    assert!(decoy.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{decoy}");
    auth.sign_in("a@example.com", "changethis", &client()).await.unwrap();
    let decoy = guess().await;
    assert!(decoy.starts_with("$argon2id$v=19$m=128,t=1,p=1$"), "{decoy}");
}

/// The test of `HashCost` in `password_hashing` has the same for Argon2.
#[tokio::test]
async fn a_hash_of_a_decomposed_password_is_replaced_by_one_of_its_normal_form() {
    let world = World::new().await;
    let user = world.user("a@example.com").await;
    let stored = async || db::user::find(&world.db, user.id).await.unwrap().unwrap().password_hash;
    let old = bcrypt::hash("pa\u{308}ssword", 4).unwrap();
    db::user::rehash(&world.db, user.id, &stored().await, &old).await.unwrap();
    assert_eq!(code_of(world.auth.sign_in("a@example.com", "pässword", &client()).await), "incorrect_credentials");
    assert_eq!(stored().await, old);
    world.auth.sign_in("a@example.com", "pa\u{308}ssword", &client()).await.unwrap();
    assert!(stored().await.starts_with("$argon2id$"));
    world.auth.sign_in("a@example.com", "pässword", &client()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_logins_with_an_outdated_hash_all_succeed() {
    let world = World::new().await;
    let user = world.user("a@example.com").await;
    let current = db::user::find(&world.db, user.id).await.unwrap().unwrap().password_hash;
    let outdated = bcrypt::hash("changethis", 4).unwrap();
    assert!(db::user::rehash(&world.db, user.id, &current, &outdated).await.unwrap());
    futures_util::future::join_all((0..8).map(|_| world.sign_in("a@example.com"))).await;
}

#[tokio::test]
async fn an_access_token_expires_even_when_it_is_cached() {
    let world = World::new().await;
    world.user("a@example.com").await;
    let grant = world.sign_in("a@example.com").await;
    world.clock.advance(grant.expires_in - Duration::from_secs(1));
    assert!(world.caller(&grant).await.is_ok());
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(code_of(world.caller(&grant).await), "invalid_token");
}

#[tokio::test]
async fn every_change_takes_effect_immediately() {
    let world = World::new().await;
    let user = world.user("a@example.com").await;
    let grant = world.sign_in("a@example.com").await;
    assert_eq!(world.caller(&grant).await.unwrap().user().unwrap().full_name, None);
    let rename = AccountChange { full_name: Some(Some("A".into())), ..AccountChange::default() };
    world.auth.update_user(user.id, rename, &Initiator::host()).await.unwrap();
    assert_eq!(world.caller(&grant).await.unwrap().user().unwrap().full_name.as_deref(), Some("A"));
    let promotion = AccountChange { is_superuser: Some(true), ..AccountChange::default() };
    world.auth.update_user(user.id, promotion, &Initiator::host()).await.unwrap();
    assert!(world.caller(&grant).await.unwrap().user().unwrap().is_superuser);
    world.auth.sign_out(&Initiator::host(), &world.caller(&grant).await.unwrap().clone()).await.unwrap();
    assert_eq!(code_of(world.caller(&grant).await), "invalid_token");
}

#[tokio::test]
async fn an_inactive_users_token_is_forbidden_and_a_deleted_users_invalid() {
    let world = World::new().await;
    let user = world.user("a@example.com").await;
    let grant = world.sign_in("a@example.com").await;
    world.caller(&grant).await.unwrap();
    world.auth.update_user(user.id, deactivation(), &Initiator::host()).await.unwrap();
    let error = world.caller(&grant).await.unwrap_err();
    assert_eq!((error.kind(), error.public()), (&Kind::Forbidden, "Inactive user"));
    assert_eq!(code_of(world.auth.refresh(grant.refresh_token.expose()).await), "invalid_token");
    let activation = AccountChange { is_active: Some(true), ..AccountChange::default() };
    world.auth.update_user(user.id, activation, &Initiator::host()).await.unwrap();
    assert_eq!(code_of(world.caller(&grant).await), "invalid_token", "its session stays ended");
    world.auth.delete_user(user.id, &Initiator::host()).await.unwrap();
    assert_eq!(code_of(world.caller(&grant).await), "invalid_token");
    assert_eq!(code_of(world.auth.delete_user(user.id, &Initiator::host()).await), "user_not_found");
}

/// An operator may remove the factors of an account, which ends its sessions, while a thief proves one of them.
#[tokio::test]
async fn no_session_with_two_factors_begins_after_the_last_factor_is_gone() {
    let world = World::new().await;
    let user = world.user("a@example.com").await;
    let row = db::user::find(&world.db, user.id).await.unwrap().unwrap();
    assert!(world.auth.begin_session(&row, &client(), Strength::Multi).await.unwrap().is_none());
    assert!(world.auth.begin_session(&row, &client(), Strength::Single).await.unwrap().is_some());
}

#[tokio::test]
async fn a_look_up_overtaken_by_a_change_is_not_cached() {
    let world = World::new().await;
    let user = world.user("a@example.com").await;
    let grant = world.sign_in("a@example.com").await;
    let caller = world.caller(&grant).await.unwrap();
    let token_cache = &world.auth.0.token_cache;
    let key = token_cache::key(grant.access_token.expose());
    let before = token_cache.generation(user.id.0);
    drop(token_cache.invalidate_after(user.id));
    token_cache.insert(key, caller, before, START, START.plus(Duration::from_secs(60)));
    assert!(token_cache.get(&key, START).is_none());
}

#[tokio::test]
async fn a_refresh_rotates_and_reuse_ends_the_session() {
    let world = World::new().await;
    world.user("a@example.com").await;
    let first = world.sign_in("a@example.com").await;
    world.clock.advance(Duration::from_secs(60));
    let second = world.auth.refresh(first.refresh_token.expose()).await.unwrap();
    assert_ne!(first.refresh_token, second.refresh_token);
    assert!(world.caller(&first).await.is_ok(), "the session goes on");
    world.clock.advance(Duration::from_secs(11));
    assert_eq!(code_of(world.auth.refresh(first.refresh_token.expose()).await), "invalid_token");
    assert_eq!(code_of(world.auth.refresh(second.refresh_token.expose()).await), "invalid_token");
    assert_eq!(code_of(world.caller(&second).await), "invalid_token");
}

#[tokio::test]
async fn reuse_of_a_much_older_token_ends_the_session_too() {
    let world = World::new().await;
    world.user("a@example.com").await;
    let first = world.sign_in("a@example.com").await;
    let second = world.auth.refresh(first.refresh_token.expose()).await.unwrap();
    let third = world.auth.refresh(second.refresh_token.expose()).await.unwrap();
    assert!(world.auth.refresh(first.refresh_token.expose()).await.is_err());
    assert!(world.auth.refresh(third.refresh_token.expose()).await.is_err());
}

#[tokio::test]
async fn concurrent_refreshes_get_the_same_token() {
    let world = World::new().await;
    world.user("a@example.com").await;
    let first = world.sign_in("a@example.com").await;
    let old = first.refresh_token.expose();
    let (one, two, three) = tokio::join!(world.auth.refresh(old), world.auth.refresh(old), world.auth.refresh(old));
    let next = one.unwrap().refresh_token;
    assert_eq!((&two.unwrap().refresh_token, &three.unwrap().refresh_token), (&next, &next));
    world.clock.advance(Duration::from_secs(9));
    assert_eq!(world.auth.refresh(old).await.unwrap().refresh_token, next);
    assert!(world.auth.refresh(next.expose()).await.is_ok());
}

#[tokio::test]
async fn a_refresh_needs_a_valid_session_and_a_token() {
    let world = World::new().await;
    world.user("a@example.com").await;
    let grant = world.sign_in("a@example.com").await;
    for token in ["", "x", grant.access_token.expose(), &"A".repeat(64)] {
        assert_eq!(code_of(world.auth.refresh(token).await), "invalid_token", "{token}");
    }
    world.clock.advance(Duration::from_secs(30 * 24 * 3600));
    assert_eq!(code_of(world.auth.refresh(grant.refresh_token.expose()).await), "invalid_token");
    assert!(world.auth.sessions(world.user("b@example.com").await.id, 0, 10).await.unwrap().0.is_empty());
}

#[tokio::test]
async fn a_session_can_be_ended_only_by_its_owner() {
    let world = World::new().await;
    let (a, b) = (world.user("a@example.com").await, world.user("b@example.com").await);
    let grant = world.sign_in("a@example.com").await;
    let session = world.caller(&grant).await.unwrap().session().unwrap().id;
    assert_eq!(code_of(world.auth.end_session(&Initiator::host(), b.id, session).await), "session_not_found");
    assert!(world.caller(&grant).await.is_ok());
    world.auth.end_session(&Initiator::host(), a.id, session).await.unwrap();
    assert_eq!(code_of(world.caller(&grant).await), "invalid_token");
    assert_eq!(code_of(world.auth.end_session(&Initiator::host(), a.id, session).await), "session_not_found");
}

#[tokio::test]
async fn a_password_change_by_the_user_keeps_only_the_current_session() {
    let world = World::new().await;
    let user = world.user("a@example.com").await;
    let (here, there) = (world.sign_in("a@example.com").await, world.sign_in("a@example.com").await);
    let link = world.auth.issue_reset_token(user.id).await.unwrap();
    let caller = world.caller(&here).await.unwrap();
    assert!(world.caller(&there).await.is_ok());
    let change =
        async |current: &str, new: &str| world.auth.change_password(&caller, current, new, &Initiator::host()).await;
    assert_eq!(code_of(change("wrongwrong", "wrongwrong").await), "incorrect_password");
    assert_eq!(code_of(change("changethis", "changethis").await), "same_password");
    change("changethis", "changethat").await.unwrap();
    assert!(world.caller(&here).await.is_ok());
    assert_eq!(code_of(world.caller(&there).await), "invalid_token");
    assert_eq!(
        code_of(world.auth.reset_password(link.expose(), "changeagain", &client()).await),
        "invalid_reset_token"
    );
    assert!(world.auth.sign_in("a@example.com", "changethis", &client()).await.is_err());
    assert!(world.auth.sign_in("a@example.com", "changethat", &client()).await.is_ok());
}

#[tokio::test]
async fn a_password_change_by_a_superuser_ends_every_session() {
    let world = World::new().await;
    let user = world.user("a@example.com").await;
    let grant = world.sign_in("a@example.com").await;
    world.caller(&grant).await.unwrap();
    let change = AccountChange { password: Some(Secret::new("changethat")), ..AccountChange::default() };
    world.auth.update_user(user.id, change, &Initiator::host()).await.unwrap();
    assert_eq!(code_of(world.caller(&grant).await), "invalid_token");
    assert_eq!(code_of(world.auth.refresh(grant.refresh_token.expose()).await), "invalid_token");
}

#[tokio::test]
async fn a_reset_token_works_once_until_it_expires() {
    let world = World::new().await;
    let user = world.user("a@example.com").await;
    let grant = world.sign_in("a@example.com").await;
    let (link, other) =
        (world.auth.issue_reset_token(user.id).await.unwrap(), world.auth.issue_reset_token(user.id).await.unwrap());
    let reset = async |token: &str| world.auth.reset_password(token, "changethat", &client()).await;
    for token in ["", "x", grant.access_token.expose(), grant.refresh_token.expose(), &"A".repeat(43)] {
        assert_eq!(code_of(reset(token).await), "invalid_reset_token", "{token}");
    }
    let results = tokio::join!(reset(link.expose()), reset(link.expose()), reset(link.expose()));
    let done = [results.0, results.1, results.2].iter().filter(|result| result.is_ok()).count();
    assert_eq!(done, 1, "single use, even concurrently");
    assert_eq!(code_of(reset(other.expose()).await), "invalid_reset_token", "it became invalid with the old password");
    assert_eq!(code_of(world.caller(&grant).await), "invalid_token");
    let late = world.auth.issue_reset_token(user.id).await.unwrap();
    world.clock.advance(Duration::from_secs(48 * 3600));
    assert_eq!(code_of(reset(late.expose()).await), "invalid_reset_token");
    assert_eq!(code_of(world.auth.authenticate(late.expose()).await), "invalid_token", "it is not a bearer token");
}

#[tokio::test]
async fn a_reset_token_is_refused_while_the_account_is_inactive_and_after_an_address_change() {
    let world = World::new().await;
    let user = world.user("a@example.com").await;
    let link = world.auth.issue_reset_token(user.id).await.unwrap();
    world.auth.update_user(user.id, deactivation(), &Initiator::host()).await.unwrap();
    assert_eq!(code_of(world.auth.reset_password(link.expose(), "changethat", &client()).await), "inactive_user");
    let moved = AccountChange { email: Some("b@example.com".parse().unwrap()), ..AccountChange::default() };
    world.auth.update_user(user.id, moved, &Initiator::host()).await.unwrap();
    assert_eq!(code_of(world.auth.reset_password(link.expose(), "changethat", &client()).await), "invalid_reset_token");
}

#[tokio::test]
async fn an_address_belongs_to_one_account_regardless_of_case() {
    let world = World::new().await;
    let a = world.user("a@example.com").await;
    world.user("b@example.com").await;
    let again = NewAccount {
        email: "A@example.com".parse().unwrap(),
        password: Secret::new("changethis"),
        full_name: None,
        is_active: true,
        is_superuser: false,
    };
    let by = Initiator::host();
    let (one, two) = tokio::join!(world.auth.create_user(again.clone(), &by), async {
        let other = NewAccount { email: "C@example.com".parse().unwrap(), ..again.clone() };
        let third = NewAccount { email: "c@example.com".parse().unwrap(), ..again.clone() };
        tokio::join!(world.auth.create_user(other, &by), world.auth.create_user(third, &by))
    });
    assert_eq!(code_of(one), "email_taken");
    assert_eq!([two.0.is_ok(), two.1.is_ok()].iter().filter(|ok| **ok).count(), 1);
    let to = |email: &str| AccountChange { email: Some(email.parse().unwrap()), ..AccountChange::default() };
    assert_eq!(code_of(world.auth.update_user(a.id, to("B@example.com"), &Initiator::host()).await), "email_taken");
    assert_eq!(
        world.auth.update_user(a.id, to("A@example.com"), &Initiator::host()).await.unwrap().email,
        "A@example.com"
    );
    assert_eq!(world.auth.user_by_email("a@EXAMPLE.com").await.unwrap().map(|user| user.id), Some(a.id));
}

#[tokio::test]
async fn accounts_are_listed_newest_first() {
    let world = World::new().await;
    world.user("a@example.com").await;
    world.clock.advance(Duration::from_secs(1));
    world.user("b@example.com").await;
    world.user("c@example.com").await;
    let (users, count) = world.auth.users(0, 2).await.unwrap();
    assert_eq!((users.len(), count), (2, 3));
    assert!(users[0].id < users[1].id, "equal times by id");
    assert_eq!(world.auth.users(2, 100).await.unwrap().0[0].email, "a@example.com");
    assert!(world.auth.users(i64::MAX, 1000).await.unwrap().0.is_empty());
    assert_eq!(world.auth.users(0, 0).await.unwrap(), (vec![], 3));
}

#[tokio::test]
async fn a_change_compares_the_permissions_when_it_happens() {
    let world = World::new().await;
    let (root, jane) = (world.superuser("root@example.com").await, world.user("jane@example.com").await);
    world.superuser("other@example.com").await;
    let few: crate::permission::PermissionSet = ["users:write".parse().unwrap()].into_iter().collect();
    let entry = |user: &User| world.auth.entry(&Initiator::host(), "user.update", user.id);
    let update = db::user::UserUpdate { is_active: Some(false), ..db::user::UserUpdate::default() };
    let refused = db::user::update(&world.db, root.id, &update, Some(&few), &entry(&root)).await;
    assert_eq!(code_of(refused), "exceeds_own_permissions");
    let refused = db::user::delete(&world.db, root.id, Some(&few), &entry(&root)).await;
    assert_eq!(code_of(refused), "exceeds_own_permissions");
    assert!(world.auth.user(root.id).await.unwrap().is_active);
    db::user::update(&world.db, jane.id, &update, Some(&few), &entry(&jane)).await.unwrap().unwrap();
    assert!(db::user::delete(&world.db, jane.id, Some(&few), &entry(&jane)).await.unwrap());
}

#[tokio::test]
async fn the_last_active_superuser_cannot_be_removed() {
    let world = World::new().await;
    let (a, b) = (world.superuser("a@example.com").await, world.superuser("b@example.com").await);
    let by = Initiator::host();
    let (one, two) =
        tokio::join!(world.auth.update_user(a.id, demotion(), &by), world.auth.update_user(b.id, demotion(), &by));
    assert_eq!([one.is_ok(), two.is_ok()].iter().filter(|ok| **ok).count(), 1);
    let last = if one.is_err() { &a } else { &b };
    let error = world.auth.update_user(last.id, deactivation(), &Initiator::host()).await.unwrap_err();
    assert_eq!((error.kind(), error.public()), (&Kind::Conflict, "The last superuser cannot be removed"));
    assert_eq!(code_of(world.auth.delete_user(last.id, &Initiator::host()).await), "last_superuser");
    let other = if one.is_err() { &b } else { &a };
    world.auth.delete_user(other.id, &Initiator::host()).await.unwrap();
}

#[tokio::test]
async fn concurrent_deletions_of_superusers_leave_one() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c", "d"] {
        ids.push(world.superuser(&format!("{name}@example.com")).await.id);
    }
    let tasks: Vec<_> = ids
        .into_iter()
        .map(|id| {
            let auth = world.auth.clone();
            tokio::spawn(async move { auth.delete_user(id, &Initiator::host()).await.is_ok() })
        })
        .collect();
    let mut deleted = 0;
    for task in tasks {
        deleted += usize::from(task.await.unwrap());
    }
    assert_eq!(deleted, 3);
}

#[tokio::test]
async fn the_first_superuser_is_created_once() {
    let world = World::new().await;
    let settings = config::Auth::default();
    let created = tokio::join!(world.auth.ensure_superuser(&settings), world.auth.ensure_superuser(&settings));
    let created: Vec<NewSuperuser> = [created.0.unwrap(), created.1.unwrap()].into_iter().flatten().collect();
    assert_eq!(created.len(), 1);
    assert_eq!(created[0].email, "admin@example.com");
    let password = created[0].generated_password.clone().unwrap();
    assert_eq!(password.expose().len(), 35);
    let signed_in = world.auth.sign_in("admin@example.com", password.expose(), &client()).await.unwrap();
    let SignIn::Tokens(grant) = signed_in else { unreachable!() };
    assert!(world.caller(&grant).await.unwrap().user().unwrap().is_superuser);
    let other = config::Auth { superuser_email: Some("b@example.com".into()), ..settings };
    assert_eq!(world.auth.ensure_superuser(&other).await.unwrap(), None);
}

#[tokio::test]
async fn the_first_superuser_has_the_configured_address_or_is_not_created() {
    let world = World::new().await;
    let settings = |email: &str, password: &str| config::Auth {
        superuser_email: Some(email.into()),
        superuser_password: Some(Secret::new(password)),
        ..config::Auth::default()
    };
    assert!(world.auth.ensure_superuser(&settings("nobody", "changethis")).await.is_err());
    assert!(world.auth.ensure_superuser(&settings("a@example.com", "short")).await.is_err());
    let user = world.user("taken@example.com").await;
    assert_eq!(world.auth.ensure_superuser(&settings("Taken@example.com", "changethat")).await.unwrap(), None);
    assert_eq!(world.auth.user(user.id).await.unwrap(), user, "an account is never changed");
    let created = world.auth.ensure_superuser(&settings("a@example.com", "changethat")).await.unwrap();
    assert_eq!(created, Some(NewSuperuser { email: "a@example.com".into(), generated_password: None }));
    assert!(world.auth.sign_in("a@example.com", "changethat", &client()).await.is_ok());
}

#[tokio::test]
async fn the_first_superuser_signs_in_with_every_form_of_its_address() {
    let world = World::new().await;
    let settings = config::Auth {
        superuser_email: Some("Boss@xn--mnchen-3ya.example".into()),
        superuser_password: Some(Secret::new("changethat")),
        ..config::Auth::default()
    };
    let created = world.auth.ensure_superuser(&settings).await.unwrap().unwrap();
    assert_eq!(created.email, "Boss@münchen.example");
    for form in ["boss@MÜNCHEN.example", "boss@xn--mnchen-3ya.example", "boss@mu\u{308}nchen.example"] {
        world.auth.sign_in(form, "changethat", &client()).await.unwrap();
    }
}
