//! What the compiler and the host make of a file that begins as a component: the check in front of Cranelift and what
//! follows, without the child process around it; then what a deploy reads from it, and the linker. The input is the file.
//!
//! Holds: nothing compiles that the host's own look at the first bytes would refuse; what is told of a refusal fits on a
//! line; what a component needs is what it imports; signing a file changes none of this. No guest runs.

use std::sync::OnceLock;

use wharf::clock::{Random, Timestamp};
use wharf::plugin::fuzzing::{self, Compiler};
use wharf::plugin::signature::{ComponentDigest, PrivateKey, Signature, Signed};

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
            let told = fuzzing::told(&reason);
            assert_line(&told);
            assert!(told.chars().count() <= 301, "{told}");
            return;
        }
        Ok(Err(error)) => return assert_refusal(&error),
        Ok(Ok(artifact)) => artifact,
    };
    assert!(header.is_ok(), "it compiles, and its first bytes are refused");
    assert_eq!((artifact.size, artifact.digest.as_str().len()), (data.len(), 64));

    let known = fuzzing::capabilities();
    match artifact.needs() {
        Ok(needs) => {
            assert!(needs.iter().all(|need| known.contains(need)));
            for import in &artifact.imports {
                let package = import.split('/').next().unwrap_or_default();
                let of_capability = package.strip_prefix("wharf:").is_some_and(|name| needs.contains(name));
                assert!(of_capability || package.starts_with("wasi:"), "'{import}' is needed from nobody");
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
        // To the linker a later patch of an interface is the interface; a deploy asks for the role itself before.
        Ok(()) => {
            let answers = artifact.exports.iter().any(|export| export.starts_with("wharf:plugin/http@0.1."));
            assert!(artifact.needs().is_ok() && answers, "{:?}", artifact.exports);
        }
        Err(error) => assert_refusal(&error),
    }

    // The compiler takes a nested component that ends with the file before its section does; nobody can sign such a file.
    let Ok(signed) = Signed::read(data) else { return };
    let key = PrivateKey::generate(&Random::Sequence(std::sync::Arc::default())).unwrap();
    let signature = Signature::sign(&key, ComponentDigest::of(signed.component), Timestamp(0));
    let file = Signed { component: signed.component, signatures: vec![signature] }.write();
    let again = compiler().artifact(&file).expect("it compiles unsigned").expect("it is taken unsigned");
    assert_eq!((again.imports, again.exports), (artifact.imports, artifact.exports), "signing changed what it is");
}
