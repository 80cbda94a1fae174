//! An uploaded file: is it a component, what is its digest, what does it import and export. `compile` makes the machine
//! code; what is told of it here is read from that.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use wasmparser::Payload;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use crate::capability::{Capabilities, Grants, wasi};
use crate::error::{Error, FieldError, Kind, Result, code};

/// SHA-256 of a component's bytes, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// The digest of a file.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The same on a thread that may take its time over a large file.
    ///
    /// # Errors
    /// A defect of the host.
    pub(super) async fn aside(bytes: Bytes) -> Result<Self> {
        let hashing = tokio::task::spawn_blocking(move || Self::of(&bytes));
        hashing.await.map_err(|error| Error::internal("hashing a file panicked").with_source(error))
    }

    /// One that was stored.
    pub(crate) fn stored(text: String) -> Self {
        Self(text)
    }

    /// The hexadecimal text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Digest {
    type Err = InvalidDigest;

    /// One that somebody typed, as `sha256sum` or `wharf plugin show` tells it.
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        match digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            true => Ok(Self(digits.to_ascii_lowercase())),
            false => Err(InvalidDigest),
        }
    }
}

/// A text is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is SHA-256 in 64 hexadecimal digits")]
pub struct InvalidDigest;

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A compiled component with what it imports and exports.
#[derive(Clone)]
pub struct Artifact {
    /// Of the file.
    pub digest: Digest,
    /// Bytes of the file.
    pub size: usize,
    /// Interfaces it imports, in order.
    pub imports: Vec<String>,
    /// Interfaces it exports.
    pub exports: Vec<String>,
    pub(super) component: Component,
}

/// The roles, by the interface that makes a plugin play it.
pub(super) const DESCRIPTOR: &str = "wharf:plugin/descriptor@0.1.0";
pub(super) const HTTP: &str = "wharf:plugin/http@0.1.0";
pub(super) const MIGRATIONS: &str = "wharf:sql/migrations@0.1.0";

/// How deeply components may lie in each other. One that a compiler made has two, and one composed of others some more.
const MAX_NESTING: usize = 20;

/// What is told of a text that a file brings.
const MAX_TOLD: usize = 300;

impl Artifact {
    /// What a compiled component of this digest and size tells of itself.
    ///
    /// # Errors
    /// It is not a component that this host can run, and why.
    pub(super) fn new(component: Component, digest: Digest, size: usize) -> Result<Self> {
        let kind = component.component_type();
        let engine = component.engine();
        let name = |(name, item): (&str, _)| match item {
            ComponentItem::ComponentInstance(_) => Ok(name.to_owned()),
            _ => Err(invalid(format!("'{}' is not an interface; Wharf's worlds have only interfaces", told(name)))),
        };
        let imports = kind.imports(engine).map(|(n, i)| name((n, i.ty))).collect::<Result<Vec<_>>>()?;
        let exports = kind.exports(engine).map(|(n, i)| name((n, i.ty))).collect::<Result<Vec<_>>>()?;
        if component.resources_required().is_none() {
            return Err(invalid("it imports whole modules or components, so its size cannot be bounded"));
        }
        Ok(Self { digest, size, imports, exports, component })
    }

    /// Capabilities that the imports ask for.
    ///
    /// # Errors
    /// An import that this host does not offer to anybody.
    pub fn needs(&self) -> Result<BTreeSet<&'static str>> {
        let mut needs = BTreeSet::new();
        for import in &self.imports {
            let package = import.split(['/', '@']).next().unwrap_or_default();
            if wasi::PACKAGES.contains(&package) {
                continue;
            }
            let of_package = |interfaces: &[&str]| interfaces.iter().any(|one| one.split('/').next() == Some(package));
            match Capabilities::OFFERED.iter().find(|offer| of_package(offer.interfaces)) {
                Some(offer) if offer.interfaces.iter().any(|interface| is_of(interface, import)) => {
                    needs.insert(offer.name);
                }
                Some(offer) => {
                    return Err(invalid(format!(
                        "it imports '{}', of which this Wharf offers only {}",
                        told(import),
                        offer.interfaces.join(", ")
                    )));
                }
                None => return Err(invalid(format!("it imports '{}', which this Wharf does not offer", told(import)))),
            }
        }
        Ok(needs)
    }

    /// Checks that it plays the roles of an HTTP plugin.
    ///
    /// # Errors
    /// A role is missing.
    pub fn check_roles(&self) -> Result<()> {
        for role in [DESCRIPTOR, HTTP] {
            if !self.plays(role) {
                let exports: Vec<String> = self.exports.iter().take(8).map(|name| told(name)).collect();
                let exports = if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") };
                return Err(invalid(format!(
                    "it does not export '{role}', so it is not a Wharf plugin; it exports {exports}"
                )));
            }
        }
        Ok(())
    }

    /// Whether it exports an interface.
    pub(super) fn plays(&self, role: &str) -> bool {
        self.exports.iter().any(|export| export == role)
    }
}

/// Whether an import is of an interface; one whose version has no patch number (`0.2`) is any patch of it.
fn is_of(interface: &str, import: &str) -> bool {
    let patch = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
    match import.strip_prefix(interface) {
        Some("") => true,
        Some(rest) => interface.matches('.').count() == 1 && rest.strip_prefix('.').is_some_and(patch),
        None => false,
    }
}

/// Checks what a component needs against the grants. Notes name grants that nothing needs.
///
/// # Errors
/// A needed capability is not granted: all of them are named.
pub(super) fn check_grants(needs: &BTreeSet<&str>, grants: &Grants) -> Result<Vec<String>> {
    let missing: Vec<&str> = needs.iter().copied().filter(|name| !grants.contains(name)).collect();
    if !missing.is_empty() {
        return Err(Error::forbidden(
            code::GRANT_MISSING,
            format!(
                "The component needs what it was not granted: {}. Deploy it with --grant {}",
                missing.join(", "),
                needs.iter().copied().collect::<Vec<_>>().join(",")
            ),
        )
        .with_findings(missing.into_iter().map(missing_grant).collect()));
    }
    Ok(grants
        .names()
        .filter(|name| !needs.contains(name))
        .map(|name| format!("grant '{name}' is not needed: the component does not import it"))
        .collect())
}

/// The capability is the last step of the place, for programs that ask whether to grant it.
fn missing_grant(capability: &str) -> FieldError {
    let text = format!("'{capability}' is needed and not granted");
    FieldError::new(code::GRANT_MISSING.as_str().to_owned(), ["query", "grant", capability], text)
}

/// Checks the length of a file.
///
/// # Errors
/// 413: it is beyond the limit.
pub(super) fn check_size(bytes: usize, limit: usize) -> Result<()> {
    if bytes > limit {
        let text = format!("The file is larger than {limit} bytes");
        return Err(Error::new(Kind::TooLarge, code::BODY_TOO_LARGE, text));
    }
    Ok(())
}

/// Checks that a file begins as a component does, which costs nothing.
///
/// # Errors
/// What it is instead.
pub(super) fn check_header(bytes: &[u8]) -> Result<()> {
    // The preamble of the binary format: magic, version, layer (0: a core module, 1: a component).
    match bytes {
        [] => Err(invalid("it is empty")),
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', _, _, 0, 0, ..] => {
            Err(invalid("it is a core module, not a component; build it for the target wasm32-wasip2"))
        }
        _ => Err(invalid("it is not WebAssembly")),
    }
}

/// Checks what costs the compiler far more than a look: the header, and how deeply components lie in each other. Ten
/// thousand of them, 150 KB in all, took more than 2 GiB to compile.
///
/// # Errors
/// What is wrong. A file that cannot be read is the compiler's to explain.
pub(super) fn check_form(bytes: &[u8]) -> Result<()> {
    check_header(bytes)?;
    let mut depth = 0_usize;
    for payload in wasmparser::Parser::new(0).parse_all(bytes) {
        match payload {
            // A module ends as a component does.
            Ok(Payload::ComponentSection { .. } | Payload::ModuleSection { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(_) => {}
            Err(_) => break,
        }
        if depth > MAX_NESTING {
            return Err(invalid(format!("components lie in each other more than {MAX_NESTING} deep")));
        }
    }
    Ok(())
}

/// A refusal of the file as a whole.
pub(super) fn invalid(reason: impl fmt::Display) -> Error {
    Error::new(Kind::Invalid(Vec::new()), code::INVALID_COMPONENT, format!("The file cannot be deployed: {reason}"))
}

/// A text that a file brought, short and on one line, fit to be told.
pub(super) fn told(text: &str) -> String {
    let mut told: String = text.chars().take(MAX_TOLD).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_TOLD).is_some() {
        told.push('…');
    }
    told
}
