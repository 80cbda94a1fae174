//! Artifacts: an uploaded file with its digest, its size, and the interfaces that it imports and exports. Owns the
//! checks that concern the file alone. `compile` produces the machine code, from which the interfaces are read here.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use wasmparser::Payload;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use crate::capability::{Capabilities, Grants, Offer, wasi};
use crate::error::{Error, FieldError, Kind, Result, code};

/// SHA-256 of a component's bytes, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// Computes the digest of a file.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Computes the digest on a blocking thread, because a large file takes long.
    ///
    /// # Errors
    /// A defect of the host.
    pub(super) async fn compute(bytes: Bytes) -> Result<Self> {
        let hashing = tokio::task::spawn_blocking(move || Self::of(&bytes));
        hashing.await.map_err(|error| Error::internal("hashing a file panicked").with_source(error))
    }

    /// Reads a stored digest.
    pub(crate) fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// Returns the hexadecimal text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Digest {
    type Err = InvalidDigest;

    /// Parses a digest as `sha256sum` or `wharf plugin show` prints it.
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        match digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            true => Ok(Self(digits.to_ascii_lowercase())),
            false => Err(InvalidDigest),
        }
    }
}

/// The text is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is SHA-256 in 64 hexadecimal digits")]
pub struct InvalidDigest;

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A compiled component with the interfaces that it imports and exports.
#[derive(Clone)]
pub struct Artifact {
    /// Digest of the file.
    pub digest: Digest,
    /// Size of the file in bytes.
    pub size: usize,
    /// Interfaces that it imports, in order.
    pub imports: Vec<String>,
    /// Interfaces that it exports.
    pub exports: Vec<String>,
    pub(super) component: Component,
}

/// The roles of a plugin, each by the interface that it exports.
pub(super) const DESCRIPTOR: &str = "wharf:plugin/descriptor@0.1.0";
pub(super) const HTTP: &str = "wharf:plugin/http@0.1.0";
pub(super) const MIGRATIONS: &str = "wharf:sql/migrations@0.1.0";
pub(super) const TOPICS: &str = "wharf:events/topics@0.1.0";
pub(super) const SUBSCRIBER: &str = "wharf:events/subscriber@0.1.0";
pub(super) const WORKER: &str = "wharf:jobs/worker@0.1.0";

/// How deeply components may be nested. A component from a compiler has two levels, a composed one some more.
const MAX_NESTING: usize = 20;

/// The number of characters that are shown of a text from a file.
const MAX_PRINTED: usize = 300;

impl Artifact {
    /// Reads the imports and exports of a compiled component.
    ///
    /// # Errors
    /// The reason why this host cannot run the component.
    pub(super) fn new(component: Component, digest: Digest, size: usize) -> Result<Self> {
        let kind = component.component_type();
        let engine = component.engine();
        let name = |(name, item): (&str, _)| match item {
            ComponentItem::ComponentInstance(_) => Ok(name.to_owned()),
            _ => {
                Err(invalid(format!("'{}' is not an interface; Wharf's worlds have only interfaces", printable(name))))
            }
        };
        let imports = kind.imports(engine).map(|(n, i)| name((n, i.ty))).collect::<Result<Vec<_>>>()?;
        let exports = kind.exports(engine).map(|(n, i)| name((n, i.ty))).collect::<Result<Vec<_>>>()?;
        if component.resources_required().is_none() {
            return Err(invalid("it imports whole modules or components, so its size cannot be bounded"));
        }
        Ok(Self { digest, size, imports, exports, component })
    }

    /// Returns the capabilities that the imports need.
    ///
    /// # Errors
    /// This host does not offer an import at all.
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
                        printable(import),
                        offer.interfaces.join(", ")
                    )));
                }
                None => {
                    return Err(invalid(format!(
                        "it imports '{}', which this Wharf does not offer",
                        printable(import)
                    )));
                }
            }
        }
        Ok(needs)
    }

    /// Checks that the component exports the interfaces of an HTTP plugin.
    ///
    /// # Errors
    /// An interface is missing.
    pub fn check_roles(&self) -> Result<()> {
        for role in [DESCRIPTOR, HTTP] {
            if !self.plays(role) {
                let exports: Vec<String> = self.exports.iter().take(8).map(|name| printable(name)).collect();
                let exports = if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") };
                return Err(invalid(format!(
                    "it does not export '{role}', so it is not a Wharf plugin; it exports {exports}"
                )));
            }
        }
        Ok(())
    }

    /// Returns whether the component exports an interface.
    pub(super) fn plays(&self, role: &str) -> bool {
        self.exports.iter().any(|export| export == role)
    }
}

/// Returns whether an import names an interface. A version without a patch number (`0.2`) matches any patch of it.
fn is_of(interface: &str, import: &str) -> bool {
    let patch = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
    match import.strip_prefix(interface) {
        Some("") => true,
        Some(rest) => interface.matches('.').count() == 1 && rest.strip_prefix('.').is_some_and(patch),
        None => false,
    }
}

/// Checks the needs of a component against the grants. Returns notes about grants that are not needed, and about those
/// that no component imports, because the operator saw no request for them.
///
/// # Errors
/// Needed capabilities are not granted; the error names all of them.
pub(super) fn check_grants(needs: &BTreeSet<&str>, grants: &Grants) -> Result<Vec<String>> {
    let missing: Vec<&str> = needs.iter().copied().filter(|name| !grants.contains(name)).collect();
    if !missing.is_empty() {
        return Err(Error::forbidden(
            code::GRANT_MISSING,
            format!(
                "The component needs capabilities that it was not granted: {}. Deploy it with --grant {}",
                missing.join(", "),
                needs.iter().copied().collect::<Vec<_>>().join(",")
            ),
        )
        .with_findings(missing.into_iter().map(missing_grant).collect()));
    }
    Ok(grants
        .names()
        .filter(|name| !needs.contains(name))
        .map(|name| match Offer::permission(name) {
            Some(offer) => format!("grant '{name}': the plugin {}", offer.meaning),
            None => format!("grant '{name}' is not needed: the component does not import it"),
        })
        .collect())
}

/// Puts the capability last in the location, for programs that ask whether to grant it.
fn missing_grant(capability: &str) -> FieldError {
    let text = format!("'{capability}' is needed and not granted");
    FieldError::new(code::GRANT_MISSING.as_str().to_owned(), ["query", "grant", capability], text)
}

/// Checks the length of a file.
///
/// # Errors
/// 413: the file is larger than the limit.
pub(super) fn check_size(bytes: usize, limit: usize) -> Result<()> {
    if bytes > limit {
        let text = format!("The file is larger than {limit} bytes");
        return Err(Error::new(Kind::TooLarge, code::BODY_TOO_LARGE, text));
    }
    Ok(())
}

/// Checks the digest of a file against the digest that the operator pinned.
///
/// # Errors
/// 422 `digest_mismatch`: it is another file.
pub(super) fn check_pinned(digest: &Digest, pinned: Option<&Digest>) -> Result<()> {
    let Some(pinned) = pinned.filter(|pinned| *pinned != digest) else { return Ok(()) };
    let text = format!(
        "The file has the digest {digest}, and {pinned} was pinned. Deploy the file that was pinned, or pin this one \
         once you know where it is from"
    );
    Err(Error::new(Kind::Invalid(Vec::new()), code::DIGEST_MISMATCH, text))
}

/// Checks that a file has the header of a component, which costs nothing.
///
/// # Errors
/// The kind of file that it is instead.
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

/// Checks the properties that are cheap to check and expensive to compile: the header, and the nesting of components.
/// Ten thousand nested components, 150 KB in all, took more than 2 GiB to compile.
///
/// # Errors
/// The header or the nesting is wrong. The compiler reports a file that cannot be parsed.
pub(super) fn check_structure(bytes: &[u8]) -> Result<()> {
    check_header(bytes)?;
    let mut depth = 0_usize;
    for payload in wasmparser::Parser::new(0).parse_all(bytes) {
        match payload {
            // `End` ends a module as well as a component.
            Ok(Payload::ComponentSection { .. } | Payload::ModuleSection { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(_) => {}
            Err(_) => break,
        }
        if depth > MAX_NESTING {
            return Err(invalid(format!("components are nested more than {MAX_NESTING} levels deep")));
        }
    }
    Ok(())
}

/// Returns 422: the file as a whole is refused.
pub(super) fn invalid(reason: impl fmt::Display) -> Error {
    Error::new(Kind::Invalid(Vec::new()), code::INVALID_COMPONENT, format!("The file cannot be deployed: {reason}"))
}

/// Returns a text from a file in a form that is safe to show: short and on one line.
pub(super) fn printable(text: &str) -> String {
    let mut printed: String = text.chars().take(MAX_PRINTED).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_PRINTED).is_some() {
        printed.push('…');
    }
    printed
}
