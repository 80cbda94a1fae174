//! Keys and signatures on the command line, from `keygen` to a host that requires signatures.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use super::{Process, home, json_of, wharf};
use crate::support::Component;

fn run(home: &Path, arguments: &[&str]) -> Output {
    wharf(home).args(arguments).output().unwrap()
}

/// Returns the error output of a command that exits with 1.
#[track_caller]
fn failure(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Creates a pair of keys in `NAME` and `NAME.pub`, and returns the public key.
fn keygen(home: &Path, name: &str) -> String {
    let made = json_of(&run(home, &["plugin", "keygen", "--out", name, "--json"]));
    assert_eq!((&made["private_file"], &made["public_file"]), (&json!(name), &json!(format!("{name}.pub"))));
    made["public_key"].as_str().unwrap().to_owned()
}

#[test]
fn a_private_key_file_is_readable_by_its_owner_only_and_never_overwritten() {
    let home = home();
    let public = keygen(home.path(), "release.key");
    let file = home.path().join("release.key");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(home.path().join("release.key.pub")).unwrap(), format!("{public}\n"));
    let pem = std::fs::read_to_string(&file).unwrap();
    assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----"));
    // Neither file is overwritten, and a refusal creates no file.
    for (there, gone) in [("release.key", "release.key.pub"), ("release.key.pub", "release.key")] {
        let text = std::fs::read(home.path().join(there)).unwrap();
        std::fs::remove_file(home.path().join(gone)).unwrap();
        let refused = failure(&run(home.path(), &["plugin", "keygen", "--out", "release.key"]));
        assert!(refused.contains(&format!("{there} exists already")), "{refused}");
        assert_eq!(std::fs::read(home.path().join(there)).unwrap(), text);
        assert!(!home.path().join(gone).exists());
        std::fs::remove_file(home.path().join(there)).unwrap();
        keygen(home.path(), "release.key");
    }
}

#[test]
fn a_signed_file_verifies_until_it_is_altered() {
    let home = home();
    let (home, file) = (home.path(), home.path().join("hello.wasm"));
    std::fs::write(&file, Component::hello().0).unwrap();
    let verify = |more: &[&str]| run(home, &[&["plugin", "verify", "hello.wasm", "--json"], more].concat());
    let sign = |key: &str| json_of(&run(home, &["plugin", "sign", "hello.wasm", "--key", key, "--json"]));
    assert!(failure(&verify(&[])).contains("it is not signed"));

    let (one, two) = (keygen(home, "one"), keygen(home, "two"));
    let signed = sign("one");
    let length = file.metadata().unwrap().len();
    // A second key signs the same bytes; a new signature of the first key replaces its earlier one.
    assert_eq!(sign("two")["component_digest"], signed["component_digest"]);
    sign("one");
    let added = length - Component::hello().0.len() as u64;
    assert_eq!(file.metadata().unwrap().len(), length + added);
    let known = json_of(&verify(&["--key", "two.pub", "--key", &format!("first={one}")]));
    assert_eq!(known["verified"], true);
    let signatures: Vec<Value> = known["signatures"].as_array().unwrap().clone();
    let signature_of = |index: usize| {
        let one = &signatures[index];
        (one["key"].as_str().unwrap(), one["name"].as_str(), one["trusted"] == true && one["holds"] == true)
    };
    assert_eq!((signature_of(0), signature_of(1)), ((one.as_str(), Some("first"), true), (two.as_str(), None, true)));
    assert!(signatures[0]["signed_at"].as_str().unwrap().ends_with('Z'));

    let stranger = keygen(home, "stranger");
    assert!(failure(&verify(&["--key", &stranger])).contains("no key that you trust signed it"));
    let altered = Component(std::fs::read(&file).unwrap()).with_text("Hello", "Hullo");
    std::fs::write(&file, &altered.0).unwrap();
    let output = verify(&["--key", &one]);
    assert!(failure(&output).contains("is not the one that was signed"));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["verified"], &report["signatures"][0]["holds"]), (&json!(false), &json!(false)));
    let again = run(home, &["plugin", "sign", "hello.wasm", "--key", "one"]);
    assert!(failure(&again).contains(&format!("the signature of {two} is not valid")), "{again:?}");
}

#[test]
fn signing_with_a_detached_signature_leaves_the_file_unchanged() {
    let home = home();
    let (home, file) = (home.path(), home.path().join("hello.wasm"));
    std::fs::write(&file, Component::hello().0).unwrap();
    let one = keygen(home, "one");
    keygen(home, "two");
    let sign = |key: &str| {
        let arguments = ["plugin", "sign", "hello.wasm", "--key", key, "--detached"];
        assert!(run(home, &arguments).status.success());
        std::fs::read_to_string(home.join("hello.wasm.sig")).unwrap().lines().count()
    };
    assert_eq!((sign("one"), sign("two"), sign("one")), (1, 2, 2));
    assert_eq!(std::fs::read(&file).unwrap(), Component::hello().0);
    let verify = ["plugin", "verify", "hello.wasm", "--key", &one, "--signature", "hello.wasm.sig", "--json"];
    let verified = json_of(&run(home, &verify));
    assert_eq!((&verified["verified"], &verified["signatures"][0]["detached"]), (&json!(true), &json!(true)));

    std::fs::write(&file, Component::hello().rebuilt("new").0).unwrap();
    failure(&run(home, &verify));
    // The other key's signature was for the previous build, so it is dropped.
    assert_eq!(sign("one"), 1);
    json_of(&run(home, &verify));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_requires_signatures_accepts_signed_files() {
    let home = home();
    let public = keygen(home.path(), "release.key");
    let [unsigned, signed] = ["unsigned.wasm", "signed.wasm"].map(|name| home.path().join(name));
    let (unsigned, signed) = (unsigned.to_str().unwrap(), signed.to_str().unwrap());
    std::fs::write(unsigned, Component::hello().0).unwrap();
    let sign = ["plugin", "sign", unsigned, "--key", "release.key"];
    let embedded = json_of(&run(home.path(), &[&sign[..], &["--out", signed, "--json"]].concat()));
    assert!(run(home.path(), &[&sign[..], &["--detached"]].concat()).status.success());

    let keys = format!("release={public}");
    let settings = [("WHARF_PLUGIN_REQUIRE_SIGNED", "true"), ("WHARF_PLUGIN_TRUSTED_KEYS", keys.as_str())];
    let process = Process::start_with(home, &settings).await;
    let superuser = process.superuser().await;
    let deploy = |arguments: &[&str]| process.command(superuser.token(), &[&["plugin", "deploy"], arguments].concat());

    let refused = failure(&deploy(&[unsigned]));
    assert!(refused.contains("The file is not signed") && refused.contains("wharf plugin sign"), "{refused}");
    let digest = embedded["digest"].as_str().unwrap();
    assert!(failure(&deploy(&[unsigned, "--digest", digest])).contains("was pinned"));
    let deployed = json_of(&deploy(&[signed, "--digest", digest, "--json"]));
    assert_eq!(deployed["plugin"]["release"]["signed_by"], json!([keys]));
    let detached = format!("{unsigned}.sig");
    let text = deploy(&[unsigned, "--signature", &detached]);
    assert!(String::from_utf8_lossy(&text.stdout).contains(&format!("signed  by {keys}")), "{text:?}");
    process.client().get("/hello/").await.ok();
}

#[test]
fn required_signatures_without_trusted_keys_are_a_configuration_error() {
    let home = home();
    let output =
        wharf(home.path()).args(["config", "check"]).env("WHARF_PLUGIN_REQUIRE_SIGNED", "true").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("plugins.require_signed") && text.contains("plugins.trusted_keys"), "{text}");
}
