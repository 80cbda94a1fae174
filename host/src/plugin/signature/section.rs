//! Signatures inside a file: one custom section each, named `wharf:signature`, after all other sections. Owns the
//! boundary between a component and its signatures; reads no other section.
//!
//! Only the top level is scanned, section by section, because the bytes of a signature could also occur in a data
//! segment. Other sections are skipped unread: the compiler, which gets the file later, checks whether they are a
//! component.

use super::format::{LEN, MAX_SIGNATURES, Malformed, Signature};
use crate::public_key::PublicKey;

/// The name of the section.
const NAME: &[u8] = b"wharf:signature";

/// The beginning of a signature section: a custom section (0), its size in LEB128, the length of its name. The payload
/// has a fixed length, so there is exactly one valid encoding, and any other one is refused.
const HEAD: [u8; 4] = [0, 0x80 | (SIZE % 128) as u8, (SIZE / 128) as u8, NAME.len() as u8];
const SIZE: usize = 1 + NAME.len() + LEN;
const _: () = assert!(SIZE >= 128 && SIZE < 128 * 128 && NAME.len() < 128, "the size takes two bytes");

/// The length of magic, version and layer.
const PREAMBLE: usize = 8;

/// A file split into its component and its signatures.
#[derive(Debug)]
pub struct SignedFile<'f> {
    /// The signed bytes: the file without the signatures at its end.
    pub component: &'f [u8],
    /// The signatures, unchecked, in the order of the file.
    pub signatures: Vec<Signature>,
}

/// Why a file's signatures cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The file does not have the header of WebAssembly.
    #[error("it is not WebAssembly")]
    Preamble,
    /// A section is longer than the file.
    #[error("its section at byte {0} is cut short")]
    Cut(usize),
    /// A signature section does not contain a signature.
    #[error("a signature in it is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// A signature section has another encoding than [`SignedFile::write`] uses.
    #[error("a signature in it is not written as Wharf writes it")]
    Encoding,
    /// Another section follows a signature.
    #[error("something was added to it after it was signed")]
    Misplaced,
    /// It has too many signatures.
    #[error("it has more than {MAX_SIGNATURES} signatures")]
    TooMany,
    /// A key signed twice, so it is unclear which signature counts.
    #[error("it has two signatures of {0}")]
    Twice(PublicKey),
}

impl<'f> SignedFile<'f> {
    /// Splits a file.
    ///
    /// # Errors
    /// The file has no sections to walk, or a signature is not where and as it must be.
    pub fn read(file: &'f [u8]) -> Result<Self, Unreadable> {
        let webassembly = file.starts_with(b"\0asm");
        let mut rest = file.get(PREAMBLE..).filter(|_| webassembly).ok_or(Unreadable::Preamble)?;
        let mut component = file;
        let mut signatures: Vec<Signature> = Vec::new();
        while !rest.is_empty() {
            let at = file.len() - rest.len();
            let section = Section::first(rest).ok_or(Unreadable::Cut(at))?;
            match section.payload {
                None if signatures.is_empty() => {}
                None => return Err(Unreadable::Misplaced),
                Some(_) if signatures.len() == MAX_SIGNATURES => return Err(Unreadable::TooMany),
                Some(payload) => {
                    let signature = Signature::from_bytes(payload)?;
                    if section.whole != write(&signature) {
                        return Err(Unreadable::Encoding);
                    }
                    if signatures.iter().any(|other| other.key == signature.key) {
                        return Err(Unreadable::Twice(signature.key));
                    }
                    if signatures.is_empty() {
                        component = file.get(..at).ok_or(Unreadable::Cut(at))?;
                    }
                    signatures.push(signature);
                }
            }
            rest = section.after;
        }
        Ok(Self { component, signatures })
    }

    /// Returns the bytes of the file.
    pub fn write(&self) -> Vec<u8> {
        let mut file = self.component.to_vec();
        for signature in &self.signatures {
            file.extend(write(signature));
        }
        file
    }
}

fn write(signature: &Signature) -> Vec<u8> {
    [HEAD.as_slice(), NAME, &signature.to_bytes()].concat()
}

struct Section<'f> {
    whole: &'f [u8],
    /// The payload, if it is a signature section.
    payload: Option<&'f [u8]>,
    /// The bytes after the section.
    after: &'f [u8],
}

impl<'f> Section<'f> {
    /// Returns the section at the beginning of `bytes`, if it is complete.
    fn first(bytes: &'f [u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first()?;
        let (size, rest) = leb128(rest)?;
        let (body, after) = rest.split_at_checked(size)?;
        let whole = bytes.get(..bytes.len() - after.len())?;
        Some(Self { whole, payload: if *id == 0 { named(body) } else { None }, after })
    }
}

/// Returns the payload of a custom section, if it has the name of a signature section.
fn named(body: &[u8]) -> Option<&[u8]> {
    let (length, rest) = leb128(body)?;
    let (name, payload) = rest.split_at_checked(length)?;
    (name == NAME).then_some(payload)
}

/// Reads an unsigned number of 32 bits in LEB128, at most five bytes long.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_u64;
    let mut rest = bytes;
    for shift in [0, 7, 14, 21, 28] {
        let (byte, after) = rest.split_first()?;
        rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((u32::try_from(value).ok()?.try_into().ok()?, rest));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::format::ComponentDigest;
    use super::super::private_key::PrivateKey;
    use super::*;
    use crate::clock::{Random, Timestamp};

    /// A component that has only a custom section.
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0\0\x03\x01xy";

    fn signed_by(component: &[u8], signers: u8) -> Vec<u8> {
        let sign = |_| {
            let key = PrivateKey::generate(&Random::System).unwrap();
            Signature::sign(&key, ComponentDigest::of(component), Timestamp(1_000_000))
        };
        SignedFile { component, signatures: (0..signers).map(sign).collect() }.write()
    }

    #[test]
    fn a_written_file_is_read_back() {
        for signers in [0, 1, 3, 16] {
            let file = signed_by(COMPONENT, signers);
            assert_eq!(file.len(), COMPONENT.len() + usize::from(signers) * (HEAD.len() + NAME.len() + LEN));
            let signed = SignedFile::read(&file).unwrap();
            assert_eq!((signed.component, signed.signatures.len()), (COMPONENT, usize::from(signers)));
            assert_eq!(signed.write(), file);
        }
        assert_eq!(SignedFile::read(&signed_by(COMPONENT, 17)).unwrap_err(), Unreadable::TooMany);
    }

    #[test]
    fn other_tools_see_a_signature_as_a_custom_section() {
        let component = b"\0asm\x0d\0\x01\0";
        let engine = wasmtime::Engine::default();
        let file = signed_by(component, 2);
        wasmtime::component::Component::new(&engine, &file).unwrap();
    }

    #[test]
    fn a_section_after_a_signature_is_refused() {
        let mut file = signed_by(COMPONENT, 1);
        file.extend(b"\0\x03\x01xy");
        assert_eq!(SignedFile::read(&file).unwrap_err(), Unreadable::Misplaced);
        file.extend(signed_by(COMPONENT, 1).split_off(COMPONENT.len()));
        assert_eq!(SignedFile::read(&file).unwrap_err(), Unreadable::Misplaced);
    }

    #[test]
    fn a_second_signature_of_a_key_is_refused() {
        let mut file = signed_by(COMPONENT, 1);
        file.extend(file.clone().split_off(COMPONENT.len()));
        assert!(matches!(SignedFile::read(&file).unwrap_err(), Unreadable::Twice(_)));
    }

    #[test]
    fn a_signature_has_only_one_valid_encoding() {
        let file = signed_by(COMPONENT, 1);
        let mut longer = file.clone();
        // The same size in three bytes instead of two.
        longer[COMPONENT.len() + 2] |= 0x80;
        longer.insert(COMPONENT.len() + 3, 0);
        assert_eq!(SignedFile::read(&longer).unwrap_err(), Unreadable::Encoding);

        let at = COMPONENT.len() + HEAD.len() + NAME.len();
        let mut later = file.clone();
        later[at] = 2;
        assert_eq!(SignedFile::read(&later).unwrap_err(), Unreadable::Malformed(Malformed::Version(2)));
        let mut empty = COMPONENT.to_vec();
        empty.extend([0, 16, 15]);
        empty.extend(NAME);
        assert_eq!(SignedFile::read(&empty).unwrap_err(), Unreadable::Malformed(Malformed::Length));
    }

    #[test]
    fn signature_bytes_inside_another_section_are_not_a_signature() {
        let inner = signed_by(COMPONENT, 1);
        let mut outer = COMPONENT.to_vec();
        // A nested component (section 4) that is signed.
        outer.extend([4, 0x80 | (inner.len() % 128) as u8, (inner.len() / 128) as u8]);
        outer.extend(&inner);
        let signed = SignedFile::read(&outer).unwrap();
        assert_eq!((signed.component, signed.signatures.len()), (outer.as_slice(), 0));
    }

    #[test]
    fn a_truncated_file_is_refused() {
        let file = signed_by(COMPONENT, 1);
        let ends = [PREAMBLE, COMPONENT.len(), file.len()];
        for length in (0..file.len()).filter(|length| !ends.contains(length)) {
            let refused = SignedFile::read(&file[..length]).unwrap_err();
            let expected = match length {
                0..PREAMBLE => Unreadable::Preamble,
                _ if length < COMPONENT.len() => Unreadable::Cut(PREAMBLE),
                _ => Unreadable::Cut(COMPONENT.len()),
            };
            assert_eq!(refused, expected, "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic_and_a_read_file_is_written_back(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            sections in prop::collection::vec((0_u8..6, prop::collection::vec(any::<u8>(), 0..40)), 0..4),
            payload in prop::collection::vec(any::<u8>(), 0..150),
            version in 0_u8..3,
        ) {
            let _ = SignedFile::read(&bytes);
            let mut file = b"\0asm\x0d\0\x01\0".to_vec();
            for (id, body) in &sections {
                file.extend([*id, u8::try_from(body.len()).unwrap()]);
                file.extend(body);
            }
            let signed = SignedFile::read(&file).map(|signed| signed.write());
            prop_assert_eq!(signed, Ok(file.clone()));
            let size = 1 + NAME.len() + 1 + payload.len();
            file.extend([0, 0x80 | (size % 128) as u8, (size / 128) as u8, NAME.len() as u8]);
            file.extend(NAME);
            file.push(version);
            file.extend(&payload);
            if let Ok(signed) = SignedFile::read(&file) {
                prop_assert_eq!(signed.write(), file);
            }
        }

        #[test]
        fn a_changed_byte_never_passes(at in 0_usize..300, change in 1_u8..) {
            let mut file = signed_by(COMPONENT, 1);
            let at = at % file.len();
            file[at] ^= change;
            if let Ok(signed) = SignedFile::read(&file) {
                let component = ComponentDigest::of(signed.component);
                let now = Timestamp(1_000_000);
                // Either it is no longer a signature, or it is not valid.
                prop_assert!(signed.signatures.iter().all(|signature| signature.check(component, now).is_err()));
            }
        }
    }
}
