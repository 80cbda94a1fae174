//! How the compiler and the host treat a file that begins like a component: the validation before Cranelift and
//! compilation, without the child process; then the values that a deploy reads from it, and the linker. The input is
//! the file.
//!
//! Properties: no file compiles whose first bytes the host would refuse; the reason of a rejection fits on one line; a
//! component needs exactly the capabilities that it imports; signing a file changes none of this. No guest runs.

use std::sync::OnceLock;

use wharf::clock::{Random, Timestamp};
use wharf::plugin::fuzzing::{self, Compiler};
use wharf::plugin::signature::{ComponentDigest, PrivateKey, Signature, SignedFile};

use crate::input::{assert_line, assert_refusal};

const DESCRIPTOR: &str = "wharf:plugin/descriptor@0.1.0";
const HTTP: &str = "wharf:plugin/http@0.1.0";

fn compiler() -> &'static Compiler {
    static COMPILER: OnceLock<Compiler> = OnceLock::new();
    COMPILER.get_or_init(|| Compiler::new().unwrap())
}

/// Checks one file.
pub fn check(data: &[u8]) {
    let compiled = compiler().artifact(data);
    let header = fuzzing::header(data);
    let artifact = match compiled {
        Err(reason) => {
            let line = fuzzing::printable(&reason);
            assert_line(&line);
            assert!(line.chars().count() <= 301, "{line}");
            return;
        }
        Ok(Err(error)) => return assert_refusal(&error),
        Ok(Ok(artifact)) => artifact,
    };
    assert!(header.is_ok(), "it compiles, but its first bytes are refused");
    assert_eq!((artifact.size, artifact.digest.as_str().len()), (data.len(), 64));

    let known = fuzzing::capabilities();
    match artifact.needs() {
        Ok(needs) => {
            assert!(needs.iter().all(|need| known.contains(need)));
            for import in &artifact.imports {
                let package = import.split('/').next().unwrap_or_default();
                let of_capability = package.strip_prefix("wharf:").is_some_and(|name| needs.contains(name));
                assert!(of_capability || package.starts_with("wasi:"), "no capability provides '{import}'");
            }
        }
        Err(error) => assert_refusal(&error),
    }
    let exports = |role: &str| artifact.exports.iter().any(|export| export == role);
    match artifact.check_roles() {
        Ok(()) => assert!(exports(DESCRIPTOR) && exports(HTTP)),
        Err(error) => {
            assert_refusal(&error);
            assert!(!(exports(DESCRIPTOR) && exports(HTTP)));
        }
    }
    match compiler().link(&artifact) {
        // To the linker, a later patch version of an interface is compatible; a deploy checks the exact role first.
        Ok(()) => {
            let responses = artifact.exports.iter().any(|export| export.starts_with("wharf:plugin/http@0.1."));
            assert!(artifact.needs().is_ok() && responses, "{:?}", artifact.exports);
        }
        Err(error) => assert_refusal(&error),
    }

    // The compiler accepts a nested component that ends with the file before its section does; such a file cannot be
    // signed.
    let Ok(signed) = SignedFile::read(data) else { return };
    let key = PrivateKey::generate(&Random::Sequence(std::sync::Arc::default())).unwrap();
    let signature = Signature::sign(&key, ComponentDigest::of(signed.component), Timestamp(0));
    let file = SignedFile { component: signed.component, signatures: vec![signature] }.write();
    let again =
        compiler().artifact(&file).expect("it compiles without signatures").expect("it is accepted without signatures");
    assert_eq!(
        (again.imports, again.exports),
        (artifact.imports, artifact.exports),
        "signing changed its imports or exports"
    );
}
