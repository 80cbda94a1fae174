//! Components to deploy: the repository's plugins and the tests' guests, built once for each run, and variants of them made
//! without a compiler.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// The bytes of a component.
#[derive(Clone)]
pub(crate) struct Component(pub(crate) Vec<u8>);

/// Everything that the tests deploy.
const PACKAGES: [&str; 4] = ["items", "hello", "chameleon", "liar"];

/// How the text inside `tests/guests/liar` begins.
const DECLARATION: &[u8] = br#"{"declaration":"liar"}"#;

/// The workspace's directory.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Where Cargo builds, seen from the running test.
pub(crate) fn target() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file()).unwrap().to_owned()
}

/// Cargo, building into the same place as the tests.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()).env("CARGO_TARGET_DIR", target());
    // What Cargo tells a running test of its package; build scripts (ring's) would take it for a change and build all again.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// A plugin by its parts in text.
#[derive(Default)]
pub(crate) struct Raw<'a> {
    /// Items of the component in front of the core instance.
    pub(crate) before: &'a str,
    /// Items of the core module.
    pub(crate) core: &'a str,
    /// Arguments of the core instance.
    pub(crate) with: &'a str,
    /// More options of the lift of `handle`.
    pub(crate) options: &'a str,
}

impl Component {
    /// The items plugin.
    pub(crate) fn items() -> Self {
        Self::built("items")
    }

    /// The smallest plugin, without any capability.
    pub(crate) fn hello() -> Self {
        Self::built("hello")
    }

    /// The guest that does what it is asked for.
    pub(crate) fn chameleon() -> Self {
        Self::built("chameleon")
    }

    /// The guest that declares what it is told to.
    pub(crate) fn liar(declaration: &Value) -> Self {
        let text = declaration.to_string();
        let mut component = Self::built("liar");
        let bytes = &mut component.0;
        let at = bytes.windows(DECLARATION.len()).position(|window| window == DECLARATION).unwrap();
        let room = bytes[at + DECLARATION.len()..].iter().take_while(|byte| **byte == b' ').count();
        assert!(text.len() <= DECLARATION.len() + room, "the declaration is longer than the liar has room for");
        bytes[at..at + DECLARATION.len()].fill(b' ');
        bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
        component
    }

    /// The same component with other bytes, as a rebuild would have: a custom section at its end says something.
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

    /// The same component with one text in its data replaced by another of the same length.
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

    /// One written as text.
    pub(crate) fn text(text: &str) -> Self {
        Self(wat::parse_str(text).unwrap())
    }

    /// A plugin that is written by hand, see `tests/guests/raw.wat`.
    pub(crate) fn raw(raw: &Raw<'_>) -> Self {
        let parts =
            [(";; BEFORE", raw.before), (";; CORE", raw.core), (";; WITH", raw.with), (";; OPTIONS", raw.options)];
        let text = include_str!("../guests/raw.wat").to_owned();
        Self::text(&parts.into_iter().fold(text, |text, (place, part)| text.replace(place, part)))
    }

    /// A file with it, for whoever wants one.
    pub(crate) fn file(name: &str) -> PathBuf {
        build_components();
        target().join("wasm32-wasip2/plugin").join(name).with_extension("wasm")
    }

    fn built(name: &str) -> Self {
        let file = Self::file(name);
        Self(std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
    }
}

/// Builds once for each run; Cargo finds out whether there is anything to do. Hosts do it before they start: what is built
/// once a client has connected may take longer than a server keeps an idle connection.
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
