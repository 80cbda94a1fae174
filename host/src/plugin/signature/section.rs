//! Signatures inside a file: one custom section each, named `wharf:signature`, after everything else. Owns where a
//! component ends and its signatures begin; reads no other section than these.
//!
//! Only the top level is walked, section by section, because the bytes of a signature could as well stand in a data
//! segment. What is no signature is skipped unread: whether the rest is a component is the compiler's business, which
//! gets the file only after this.

use super::{LEN, MAX_SIGNATURES, Malformed, Signature};
use crate::public_key::PublicKey;

/// The section's name.
const NAME: &[u8] = b"wharf:signature";

/// How such a section begins: a custom section (0), its size in LEB128, the length of its name. The payload has one
/// length, so there is one way to write it, and a signature cannot be written otherwise and still pass.
const HEAD: [u8; 4] = [0, 0x80 | (SIZE % 128) as u8, (SIZE / 128) as u8, NAME.len() as u8];
const SIZE: usize = 1 + NAME.len() + LEN;
const _: () = assert!(SIZE >= 128 && SIZE < 128 * 128 && NAME.len() < 128, "the size takes two bytes");

/// Magic, version and layer.
const PREAMBLE: usize = 8;

/// A file, taken apart.
#[derive(Debug)]
pub struct Signed<'f> {
    /// What is signed: the file without the signatures at its end.
    pub component: &'f [u8],
    /// Unchecked, in the order of the file.
    pub signatures: Vec<Signature>,
}

/// Why a file's signatures cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The file does not begin as WebAssembly does.
    #[error("it is not WebAssembly")]
    Preamble,
    /// A section begins that does not end.
    #[error("its section at byte {0} is cut short")]
    Cut(usize),
    /// Such a section with something else inside.
    #[error("a signature in it is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// Written otherwise than [`Signed::write`] does.
    #[error("a signature in it is not written as Wharf writes it")]
    Encoding,
    /// Something stands behind a signature that is none.
    #[error("something was added to it after it was signed")]
    Misplaced,
    /// More than anybody needs.
    #[error("it has more than {MAX_SIGNATURES} signatures")]
    TooMany,
    /// A key signed twice, and only one of the two can be meant.
    #[error("it has two signatures of {0}")]
    Twice(PublicKey),
}

impl<'f> Signed<'f> {
    /// Takes a file apart.
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

    /// Puts a file together.
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
    /// If it is one of ours.
    payload: Option<&'f [u8]>,
    /// What stands behind it.
    after: &'f [u8],
}

impl<'f> Section<'f> {
    /// The section that `bytes` begin with, if all of it is there.
    fn first(bytes: &'f [u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first()?;
        let (size, rest) = leb128(rest)?;
        let (body, after) = rest.split_at_checked(size)?;
        let whole = bytes.get(..bytes.len() - after.len())?;
        Some(Self { whole, payload: if *id == 0 { named(body) } else { None }, after })
    }
}

/// What is behind the name of a custom section, if the name is ours.
fn named(body: &[u8]) -> Option<&[u8]> {
    let (length, rest) = leb128(body)?;
    let (name, payload) = rest.split_at_checked(length)?;
    (name == NAME).then_some(payload)
}

/// An unsigned number of 32 bits, at most five bytes long, as WebAssembly has it.
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

    use super::super::{ComponentDigest, PrivateKey};
    use super::*;
    use crate::clock::{Random, Timestamp};

    /// A component without anything but a custom section.
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0\0\x03\x01xy";

    fn signed_by(component: &[u8], signers: u8) -> Vec<u8> {
        let sign = |_| {
            let key = PrivateKey::generate(&Random::System).unwrap();
            Signature::sign(&key, ComponentDigest::of(component), Timestamp(1_000_000))
        };
        Signed { component, signatures: (0..signers).map(sign).collect() }.write()
    }

    #[test]
    fn what_is_written_is_read() {
        for signers in [0, 1, 3, 16] {
            let file = signed_by(COMPONENT, signers);
            assert_eq!(file.len(), COMPONENT.len() + usize::from(signers) * (HEAD.len() + NAME.len() + LEN));
            let signed = Signed::read(&file).unwrap();
            assert_eq!((signed.component, signed.signatures.len()), (COMPONENT, usize::from(signers)));
            assert_eq!(signed.write(), file);
        }
        assert_eq!(Signed::read(&signed_by(COMPONENT, 17)).unwrap_err(), Unreadable::TooMany);
    }

    #[test]
    fn a_signature_is_a_custom_section_for_everybody_else() {
        let component = b"\0asm\x0d\0\x01\0";
        let engine = wasmtime::Engine::default();
        let file = signed_by(component, 2);
        wasmtime::component::Component::new(&engine, &file).unwrap();
    }

    #[test]
    fn nothing_stands_behind_a_signature() {
        let mut file = signed_by(COMPONENT, 1);
        file.extend(b"\0\x03\x01xy");
        assert_eq!(Signed::read(&file).unwrap_err(), Unreadable::Misplaced);
        file.extend(signed_by(COMPONENT, 1).split_off(COMPONENT.len()));
        assert_eq!(Signed::read(&file).unwrap_err(), Unreadable::Misplaced);
    }

    #[test]
    fn a_key_signs_once() {
        let mut file = signed_by(COMPONENT, 1);
        file.extend(file.clone().split_off(COMPONENT.len()));
        assert!(matches!(Signed::read(&file).unwrap_err(), Unreadable::Twice(_)));
    }

    #[test]
    fn a_signature_is_written_in_one_way_only() {
        let file = signed_by(COMPONENT, 1);
        let mut longer = file.clone();
        // The same size in three bytes instead of two.
        longer[COMPONENT.len() + 2] |= 0x80;
        longer.insert(COMPONENT.len() + 3, 0);
        assert_eq!(Signed::read(&longer).unwrap_err(), Unreadable::Encoding);

        let at = COMPONENT.len() + HEAD.len() + NAME.len();
        let mut later = file.clone();
        later[at] = 2;
        assert_eq!(Signed::read(&later).unwrap_err(), Unreadable::Malformed(Malformed::Version(2)));
        let mut empty = COMPONENT.to_vec();
        empty.extend([0, 16, 15]);
        empty.extend(NAME);
        assert_eq!(Signed::read(&empty).unwrap_err(), Unreadable::Malformed(Malformed::Length));
    }

    #[test]
    fn the_bytes_of_a_signature_inside_a_section_are_none() {
        let inner = signed_by(COMPONENT, 1);
        let mut outer = COMPONENT.to_vec();
        // A nested component (section 4) that is signed.
        outer.extend([4, 0x80 | (inner.len() % 128) as u8, (inner.len() / 128) as u8]);
        outer.extend(&inner);
        let signed = Signed::read(&outer).unwrap();
        assert_eq!((signed.component, signed.signatures.len()), (outer.as_slice(), 0));
    }

    #[test]
    fn what_is_cut_is_refused() {
        let file = signed_by(COMPONENT, 1);
        let ends = [PREAMBLE, COMPONENT.len(), file.len()];
        for length in (0..file.len()).filter(|length| !ends.contains(length)) {
            let refused = Signed::read(&file[..length]).unwrap_err();
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
        fn no_bytes_panic_and_what_is_read_is_written_again(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            sections in prop::collection::vec((0_u8..6, prop::collection::vec(any::<u8>(), 0..40)), 0..4),
            payload in prop::collection::vec(any::<u8>(), 0..150),
            version in 0_u8..3,
        ) {
            let _ = Signed::read(&bytes);
            let mut file = b"\0asm\x0d\0\x01\0".to_vec();
            for (id, body) in &sections {
                file.extend([*id, u8::try_from(body.len()).unwrap()]);
                file.extend(body);
            }
            let signed = Signed::read(&file).map(|signed| signed.write());
            prop_assert_eq!(signed, Ok(file.clone()));
            let size = 1 + NAME.len() + 1 + payload.len();
            file.extend([0, 0x80 | (size % 128) as u8, (size / 128) as u8, NAME.len() as u8]);
            file.extend(NAME);
            file.push(version);
            file.extend(&payload);
            if let Ok(signed) = Signed::read(&file) {
                prop_assert_eq!(signed.write(), file);
            }
        }

        #[test]
        fn a_changed_byte_never_passes(at in 0_usize..300, change in 1_u8..) {
            let mut file = signed_by(COMPONENT, 1);
            let at = at % file.len();
            file[at] ^= change;
            if let Ok(signed) = Signed::read(&file) {
                let component = ComponentDigest::of(signed.component);
                let now = Timestamp(1_000_000);
                // Either it is a signature no more, or one that does not hold.
                prop_assert!(signed.signatures.iter().all(|signature| signature.check(component, now).is_err()));
            }
        }
    }
}
