use uuid::Uuid;

use super::*;
use crate::auth::HashCost;
use crate::auth::access_token::{self, Claims};
use crate::auth::signing_keys::SigningKeys;
use crate::auth::tests::World;
use crate::clock::{Random, Timestamp};
use crate::config;
use crate::id::{SessionId, UserId};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Opens another node on the database of a world.
async fn node(world: &World) -> Auth {
    let settings = config::Auth::default();
    let (db, clock) = (world.db.clone(), world.clock.clone());
    Auth::open(db, &settings, clock, Random::System, HashCost::Minimal).await.unwrap()
}

async fn token(auth: &Auth) -> String {
    let now = auth.0.clock.now();
    let claims = Claims::new(UserId(Uuid::from_u128(1)), SessionId(Uuid::from_u128(2)), now, DAY * 8);
    access_token::sign(&auth.0.keys, &claims, now).await.unwrap()
}

async fn accepts(auth: &Auth, token: &str) -> bool {
    access_token::verify(&auth.0.keys, token, auth.0.clock.now()).await.is_ok()
}

async fn rotate(auth: &Auth, revoke_old: bool) -> Result<Vec<PublicSigningKey>> {
    auth.rotate_signing_key(&Initiator::host(), revoke_old).await
}

#[tokio::test]
async fn another_node_learns_of_a_rotation_within_seconds() {
    let world = World::new().await;
    let (one, two, three) = (&world.auth, node(&world).await, node(&world).await);
    let old = token(one).await;
    rotate(one, true).await.unwrap();
    let new = token(one).await;
    assert!(accepts(one, &new).await && !accepts(one, &old).await);
    // The copies of the others are new, so an unknown key id does not renew them: strangers could ask for any number.
    assert!(!accepts(&two, &new).await && accepts(&two, &old).await);
    world.clock.advance(SECOND);
    assert!(accepts(&two, &new).await && !accepts(&two, &old).await, "an unknown key id renews an older copy");
    assert!(accepts(&three, &old).await, "it has seen no unknown key id");
    world.clock.advance(SECOND * 4);
    assert!(!accepts(&three, &old).await, "no copy is older than five seconds");
    assert!(accepts(one, &token(&three).await).await);
}

#[tokio::test]
async fn a_key_verifies_until_its_last_token_has_expired() {
    let world = World::new().await;
    let auth = &world.auth;
    rotate(auth, false).await.unwrap();
    world.clock.advance(LEAD - SECOND);
    let last = token(auth).await;
    world.clock.advance(DAY * 8 - SECOND);
    assert!(accepts(auth, &last).await);
    assert_eq!(auth.signing_keys().await.unwrap().len(), 2);
    world.clock.advance(LEAD);
    assert_eq!(auth.signing_keys().await.unwrap().len(), 1);
    // The private part of an expired key is deleted at the next rotation.
    rotate(auth, false).await.unwrap();
    assert_eq!(signing_key::list(&world.db).await.unwrap().len(), 2);
}

#[tokio::test]
async fn the_number_of_keys_is_bounded() {
    let world = World::new().await;
    for _ in 0..9 {
        rotate(&world.auth, false).await.unwrap();
        assert_eq!(rotate(&world.auth, false).await.unwrap_err().code(), &code::SIGNING_KEY_OVERLAP);
        world.clock.advance(LEAD);
    }
    assert_eq!(rotate(&world.auth, false).await.unwrap_err().code(), &code::SIGNING_KEY_OVERLAP);
    assert_eq!(world.auth.signing_keys().await.unwrap().len(), 10);
    assert_eq!(rotate(&world.auth, true).await.unwrap().len(), 1, "a revocation is never refused");
}

#[tokio::test]
async fn rotations_at_the_same_time_add_one_key() {
    let world = World::new().await;
    let two = node(&world).await;
    let results = tokio::join!(rotate(&world.auth, false), rotate(&two, false), rotate(&world.auth, false));
    let done = [results.0.is_ok(), results.1.is_ok(), results.2.is_ok()].into_iter().filter(|ok| *ok).count();
    // A node that was late has its old copy of the keys; a new one reads them.
    assert_eq!((done, node(&world).await.signing_keys().await.unwrap().len()), (1, 2));
}

#[tokio::test]
async fn a_host_whose_clock_was_set_back_still_signs() {
    let (_dir, db) = crate::db::tests::sqlite().await;
    let now = Timestamp(1_800_000_000_000_000);
    let keys = SigningKeys::open(&db, &Random::System, now).await.unwrap();
    assert!(keys.signer(now.minus(DAY)).await.is_ok());
}
