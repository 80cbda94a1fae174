//! Components to deploy: the repository's plugins and the tests' guests, built once for each test run, and variants of
//! them that need no compiler.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// The bytes of a component.
#[derive(Clone)]
pub(crate) struct Component(pub(crate) Vec<u8>);

/// The packages that the tests deploy.
const PACKAGES: [&str; 8] = ["items", "hello", "digest-plugin", "webhooks", "chameleon", "courier", "liar", "worker"];

/// Returns the workspace's directory.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Returns Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned()
}

/// Returns a Cargo command that builds into the same target directory as the tests.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).env("CARGO_TARGET_DIR", target());
    // Cargo sets these variables for a running test. Build scripts (ring's) would see a change in them and build again.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// The parts of a plugin in WebAssembly text.
#[derive(Default)]
pub(crate) struct RawPlugin<'a> {
    /// Items of the component before the core instance.
    pub(crate) before: &'a str,
    /// Items of the core module.
    pub(crate) core: &'a str,
    /// Arguments of the core instance.
    pub(crate) with: &'a str,
    /// More options of the lift of `handle`.
    pub(crate) options: &'a str,
}

impl Component {
    /// Returns the items plugin.
    pub(crate) fn items() -> Self {
        Self::built("items")
    }

    /// Returns the digest plugin.
    pub(crate) fn digest() -> Self {
        Self::built("digest")
    }

    /// Returns the smallest plugin, which has no capability.
    pub(crate) fn hello() -> Self {
        Self::built("hello")
    }

    /// Returns the plugin that sends webhooks.
    pub(crate) fn webhooks() -> Self {
        Self::built("webhooks")
    }

    /// Returns the guest whose routes do all that tests need.
    pub(crate) fn chameleon() -> Self {
        Self::built("chameleon")
    }

    /// Returns the guest whose events and jobs report what they do.
    pub(crate) fn courier() -> Self {
        Self::built("courier")
    }

    /// Returns the guest with the given declaration.
    pub(crate) fn liar(declaration: &Value) -> Self {
        Self::declaring("liar", declaration)
    }

    /// Returns the guest that publishes events and runs jobs, with the given declaration.
    pub(crate) fn worker(declaration: &Value) -> Self {
        Self::declaring("worker", declaration)
    }

    /// Returns a guest whose declaration is a text inside it, see `tests/guests/liar`.
    fn declaring(name: &str, declaration: &Value) -> Self {
        let text = declaration.to_string();
        let mut component = Self::built(name);
        let bytes = &mut component.0;
        let beginning = format!(r#"{{"declaration":"{name}"}}"#);
        let beginning = beginning.as_bytes();
        let at = bytes.windows(beginning.len()).position(|window| window == beginning).unwrap();
        let space = bytes[at + beginning.len()..].iter().take_while(|byte| **byte == b' ').count();
        assert!(text.len() <= beginning.len() + space, "the declaration is longer than the space in the guest");
        bytes[at..at + beginning.len()].fill(b' ');
        bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
        component
    }

    /// Returns the same component with another digest, like a rebuild: a custom section is appended.
    pub(crate) fn rebuilt(&self, word: &str) -> Self {
        let name = b"rebuilt";
        let length = 1 + name.len() + word.len();
        assert!(length < 128, "the length takes one byte");
        let mut bytes = self.0.clone();
        bytes.extend([0, u8::try_from(length).unwrap(), u8::try_from(name.len()).unwrap()]);
        bytes.extend(name);
        bytes.extend(word.as_bytes());
        Self(bytes)
    }

    /// Returns the same component with a text in its data replaced by another of the same length.
    pub(crate) fn with_text(&self, old: &str, new: &str) -> Self {
        assert_eq!(old.len(), new.len());
        let mut bytes = self.0.clone();
        let mut found = false;
        let mut at = 0;
        while let Some(next) = bytes[at..].windows(old.len()).position(|window| window == old.as_bytes()) {
            bytes[at + next..at + next + old.len()].copy_from_slice(new.as_bytes());
            at += next + old.len();
            found = true;
        }
        assert!(found, "'{old}' is not in the component");
        Self(bytes)
    }

    /// Returns a component from WebAssembly text.
    pub(crate) fn text(text: &str) -> Self {
        Self(wat::parse_str(text).unwrap())
    }

    /// Returns a handwritten plugin, see `tests/guests/raw.wat`.
    pub(crate) fn raw(raw: &RawPlugin<'_>) -> Self {
        let parts =
            [(";; BEFORE", raw.before), (";; CORE", raw.core), (";; WITH", raw.with), (";; OPTIONS", raw.options)];
        let text = include_str!("../guests/raw.wat").to_owned();
        Self::text(&parts.into_iter().fold(text, |text, (marker, part)| text.replace(marker, part)))
    }

    /// Builds the components and returns the file of one.
    pub(crate) fn file(name: &str) -> PathBuf {
        build_components();
        target().join("wasm32-wasip2/plugin").join(name).with_extension("wasm")
    }

    fn built(name: &str) -> Self {
        let file = Self::file(name);
        Self(std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
    }
}

/// Builds the components once for each test run. Test hosts call it before they start: a build after a client has
/// connected may take longer than the host's idle timeout.
pub(crate) fn build_components() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut cargo = cargo();
        cargo.args(["build", "--quiet", "--target", "wasm32-wasip2", "--profile", "plugin"]);
        for package in PACKAGES {
            cargo.args(["-p", package]);
        }
        let status = cargo.status().unwrap();
        assert!(status.success(), "the plugins do not build; is the target wasm32-wasip2 installed?");
    });
}
