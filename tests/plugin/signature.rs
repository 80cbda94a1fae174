//! Signatures, their age and pinned digests. A rejection changes nothing, and comes before the file is compiled.

use std::time::Duration;

use serde_json::{Value, json};
use wharf::clock::{Random, Timestamp};
use wharf::plugin::artifact::Digest;
use wharf::plugin::signature::{ComponentDigest, PrivateKey, Signature, SignedFile};

use super::plugins;
use crate::support::{Component, Setup, TestHost};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A key that signs components.
struct Signer(PrivateKey);

impl Signer {
    fn new() -> Self {
        Self(PrivateKey::generate(&Random::System).unwrap())
    }

    fn signature(&self, component: &Component, at: Timestamp) -> Signature {
        Signature::sign(&self.0, ComponentDigest::of(&component.0), at)
    }

    /// Returns the component with an embedded signature.
    fn sign(&self, component: &Component, at: Timestamp) -> Component {
        let signatures = vec![self.signature(component, at)];
        Component(SignedFile { component: &component.0, signatures }.write())
    }

    fn trusted(&self, setup: Setup) -> Setup {
        let key = format!("release={}", self.0.public_key()).parse().unwrap();
        setup.with(|config| config.plugins.trusted_keys.push(key))
    }

    /// Starts a host that accepts only files that this key signed within the last day.
    async fn host(&self) -> TestHost {
        let setup = Setup::default().with_manual_clock().with(|config| {
            config.plugins.require_signed = true;
            config.plugins.signature_max_age = Some(DAY);
        });
        TestHost::sqlite(self.trusted(setup)).await
    }
}

fn now(host: &TestHost) -> Timestamp {
    host.clock().now()
}

/// Checks the status and code of a rejection and that it deployed nothing. Returns the detail.
async fn refused(host: &TestHost, component: &Component, query: &str, status: u16, code: &str) -> String {
    let before = plugins(host).await;
    let detail = host.superuser().deploy(&component.0, query).await.has_code(status, code);
    assert_eq!(plugins(host).await, before);
    detail
}

#[tokio::test]
async fn a_signed_file_is_deployed_and_its_signer_is_shown_and_recorded() {
    let signer = Signer::new();
    let mut host = signer.host().await;
    let component = signer.sign(&Component::hello(), now(&host));
    let deployed = host.superuser().deploy(&component.0, "").await.ok();
    let release = format!("release={}", signer.0.public_key());
    assert_eq!((&deployed["plugin"]["release"]["signed_by"], &deployed["notes"]), (&json!([release]), &json!([])));
    let digest = Digest::of(&component.0);
    assert_eq!(deployed["plugin"]["release"]["digest"], digest.as_str(), "the digest is that of the whole file");
    assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
    assert_eq!(audit_detail(&host).await["signed_by"], json!([release]));

    // The signature is too old for an upload by now, and the plugin still starts.
    host.clock().advance(2 * DAY);
    host.restart().await;
    assert_eq!(host.anonymous().get("/hello/").await.ok()["message"], "Hello");
    host.stop().await;
}

/// Returns the detail of the last deploy in the audit log.
async fn audit_detail(host: &TestHost) -> Value {
    use sqlx::{Connection as _, Row as _};
    let file = host.config().server.data_dir.join("wharf.sqlite");
    let mut connection = sqlx::SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
    let sql = "SELECT CAST(detail AS TEXT) FROM audit WHERE action = 'plugin.deploy' ORDER BY at DESC LIMIT 1";
    let row = sqlx::query(sql).fetch_one(&mut connection).await.unwrap();
    serde_json::from_str(row.get(0)).unwrap()
}

#[tokio::test]
async fn an_unsigned_file_is_rejected_with_instructions_and_never_compiled() {
    let signer = Signer::new();
    let host = signer.host().await;
    let detail = refused(&host, &Component::hello(), "", 403, "signature_missing").await;
    assert_eq!(
        detail,
        "The file is not signed, and this host accepts only files that a trusted key signed. Sign it with `wharf plugin sign \
         FILE --key KEYFILE`, or give its signature with --signature FILE.sig"
    );
    assert_eq!(audit_detail(&host).await["code"], "signature_missing");
    // It contains an invalid core module of two bytes, which the compiler would report. The code shows that the
    // compiler did not run.
    let nonsense = Component(b"\0asm\x0d\0\x01\0\x01\x02xy".to_vec());
    refused(&host, &nonsense, "", 403, "signature_missing").await;
    let mut truncated = Component::hello();
    truncated.0.truncate(truncated.0.len() / 2);
    let detail = refused(&host, &truncated, "", 422, "invalid_component").await;
    assert!(detail.ends_with("is cut short"), "{detail}");
    host.stop().await;
}

#[tokio::test]
async fn an_untrusted_key_is_rejected_and_named() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let host = signer.host().await;
    let component = stranger.sign(&Component::hello(), now(&host));
    let detail = refused(&host, &component, "", 403, "signature_untrusted").await;
    assert!(detail.contains(&stranger.0.public_key().to_string()), "{detail}");
    assert!(detail.contains("plugins.trusted_keys (WHARF_PLUGIN_TRUSTED_KEYS)"), "{detail}");
    host.stop().await;
}

#[tokio::test]
async fn an_altered_component_and_an_altered_signature_are_rejected() {
    let signer = Signer::new();
    let host = signer.host().await;
    let signed = signer.sign(&Component::hello(), now(&host));
    let length = Component::hello().0.len();

    let altered = signed.with_text("Hello", "Hullo");
    let detail = refused(&host, &altered, "", 422, "signature_invalid").await;
    assert!(detail.contains("is not valid: the component is not the one that was signed"), "{detail}");

    let mut altered = signed.clone();
    *altered.0.last_mut().unwrap() ^= 1;
    let detail = refused(&host, &altered, "", 422, "signature_invalid").await;
    assert!(detail.contains("the signature does not match its key"), "{detail}");

    let detail = refused(&host, &signed.rebuilt("more"), "", 422, "signature_invalid").await;
    assert!(detail.contains("something was added to it after it was signed"), "{detail}");

    let unsigned = Component(signed.0[..length].to_vec());
    refused(&host, &unsigned, "", 403, "signature_missing").await;
    let other = Component::chameleon();
    let moved = Component([&other.0[..], &signed.0[length..]].concat());
    refused(&host, &moved, "", 422, "signature_invalid").await;
    host.stop().await;
}

#[tokio::test]
async fn a_signature_from_the_future_or_too_old_is_rejected() {
    let signer = Signer::new();
    let host = signer.host().await;
    let component = signer.sign(&Component::hello(), now(&host));
    let early = signer.sign(&Component::hello(), now(&host).plus(Duration::from_secs(6 * 60)));
    let detail = refused(&host, &early, "", 403, "signature_expired").await;
    assert!(detail.contains("in the future"), "{detail}");

    host.clock().advance(DAY + Duration::from_secs(1));
    let detail = refused(&host, &component, "", 403, "signature_expired").await;
    assert!(detail.contains("longer ago than plugins.signature_max_age allows (1day)"), "{detail}");

    let fresh = signer.sign(&Component::hello(), now(&host));
    host.superuser().deploy(&fresh.0, "").await.ok();
    // The live file may be deployed again, with other grants or at the next start of `serve --deploy`.
    host.clock().advance(2 * DAY);
    assert_eq!(host.superuser().deploy(&fresh.0, "").await.ok()["unchanged"], true);
    host.stop().await;
}

#[tokio::test]
async fn a_detached_signature_is_accepted_if_it_matches_the_file() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let host = signer.host().await;
    let component = Component::hello();
    let query = |signature: &Signature| format!("signature={signature}");

    let wrong = signer.signature(&component.rebuilt("another"), now(&host));
    refused(&host, &component, &query(&wrong), 422, "signature_invalid").await;
    let strange = stranger.signature(&component, now(&host));
    refused(&host, &component, &query(&strange), 403, "signature_untrusted").await;
    let response = host.superuser().deploy(&component.0, "signature=wharf-signature:AAAA").await;
    response.has_findings(&[
        "query.signature value_error: not a signature: it has the version 0, and this Wharf supports only 1",
    ]);
    let many: String = (0..17).map(|_| query(&strange) + "&").collect();
    host.superuser().deploy(&component.0, &many).await.has_findings(&["query.signature value_error: more than 16…"]);

    let right = signer.signature(&component, now(&host));
    let both = format!("{}&{}", query(&strange), query(&right));
    let deployed = host.superuser().deploy(&component.0, &both).await.ok();
    assert_eq!(deployed["plugin"]["release"]["signed_by"], json!([format!("release={}", signer.0.public_key())]));
    host.anonymous().get("/hello/").await.ok();

    // Its limits can be changed without the signature, and after the key was removed from the trusted keys.
    let mut host = host;
    for limit in ["deadline=5s", "deadline=4s"] {
        let path = format!("/plugins/hello/limits?limit={limit}");
        host.superuser().request(reqwest::Method::PUT, &path).send().await.ok();
        let live = host.superuser().get("/plugins/hello").await.ok();
        assert_eq!(live["release"]["signed_by"], deployed["plugin"]["release"]["signed_by"]);
        host.restart_with(|config| config.plugins.trusted_keys.clear()).await;
    }
    host.stop().await;
}

#[tokio::test]
async fn a_file_that_does_not_match_its_pinned_digest_is_rejected() {
    let host = TestHost::sqlite(Setup::default()).await;
    let component = Component::hello();
    let digest = Digest::of(&component.0);
    let other = Digest::of(&component.rebuilt("another").0);
    let detail = refused(&host, &component, &format!("digest={other}"), 422, "digest_mismatch").await;
    assert!(detail.contains(digest.as_str()) && detail.contains(other.as_str()), "{detail}");
    let response = host.superuser().deploy(&component.0, "digest=abc").await;
    response.has_findings(&["query.digest value_error: a digest is SHA-256 in 64 hexadecimal digits"]);
    let deployed = host.superuser().deploy(&component.0, &format!("digest=sha256:{digest}")).await.ok();
    assert_eq!(deployed["plugin"]["release"]["signed_by"], json!([]));
    host.stop().await;
}

#[tokio::test]
async fn without_required_signatures_only_altered_files_are_rejected() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let host = TestHost::sqlite(signer.trusted(Setup::default())).await;
    let at = now(&host);
    host.superuser().deploy(&Component::hello().0, "").await.ok();

    let strange = stranger.sign(&Component::hello(), at);
    let deployed = host.superuser().deploy(&strange.0, "").await.ok();
    let note =
        format!("signed by {}, which is not trusted here; the signature was not checked", stranger.0.public_key());
    assert_eq!((&deployed["plugin"]["release"]["signed_by"], &deployed["notes"]), (&json!([]), &json!([note])));

    let altered = signer.sign(&Component::hello(), at).with_text("Hello", "Hullo");
    refused(&host, &altered, "", 422, "signature_invalid").await;
    let signed = signer.sign(&Component::hello(), at);
    host.superuser().deploy(&signed.0, "").await.ok();
    let live = host.superuser().get("/plugins/hello").await.ok();
    assert_eq!(live["release"]["signed_by"].as_array().unwrap().len(), 1, "{live}");
    host.stop().await;
}
