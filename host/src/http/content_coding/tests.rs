//! Tests of the decoders, with data of other programs and of attackers.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use proptest::prelude::*;

use super::*;

const ALL: [ContentCoding; 4] =
    [ContentCoding::Gzip, ContentCoding::Deflate, ContentCoding::Brotli, ContentCoding::Zstd];

const TEXT: &[u8] = br#"{"title":"packed"}"#;

/// `TEXT` as the programs brotli and zstd write it.
const BROTLI: &[u8] = b"\x8b\x08\x80{\"title\":\"packed\"}\x03";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd\x20\x12\x91\x00\x00{\"title\":\"packed\"}";

/// The same with a checksum.
const ZSTD_CHECKED: &[u8] = b"\x28\xb5\x2f\xfd\x24\x12\x91\x00\x00{\"title\":\"packed\"}\xd4\x6d\x24\x55";

/// Ten mebibytes of the digit 0, as brotli writes them.
const BROTLI_BOMB: &[u8] =
    b"\xcb\xff\xff\x3f\xf8\x25\x60\xe2\xb1\x40\x20\xf7\xfe\x2f\xff\xff\x3f\xf0\x4b\x00\xc4\x61\x11\x80\xee\xfd\x07";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn decode(coding: ContentCoding, bytes: &[u8], limit: usize) -> Result<Vec<u8>> {
    coding.decode(ReadBody::from_bytes(bytes.to_vec()), limit).map(|read| read.bytes.to_vec())
}

fn code_of(coding: ContentCoding, bytes: &[u8], limit: usize) -> code::Code {
    decode(coding, bytes, limit).unwrap_err().code().clone()
}

#[test]
fn each_coding_is_decoded() {
    let deflate = {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(TEXT).unwrap();
        encoder.finish().unwrap()
    };
    for (coding, bytes) in [
        (ContentCoding::Gzip, gzip(TEXT)),
        (ContentCoding::Deflate, zlib(TEXT)),
        (ContentCoding::Deflate, deflate),
        (ContentCoding::Brotli, BROTLI.to_vec()),
        (ContentCoding::Zstd, ZSTD.to_vec()),
    ] {
        assert_eq!(decode(coding, &bytes, TEXT.len()).unwrap(), TEXT, "{coding:?}");
        assert_eq!(code_of(coding, &bytes, TEXT.len() - 1), code::BODY_TOO_LARGE, "{coding:?}");
        // Half of it, something behind it, and something else.
        let half = bytes.get(..bytes.len() / 2).unwrap();
        for wrong in [half, &[&*bytes, b"x"].concat(), b"nonsense", b"\xff"] {
            assert_eq!(code_of(coding, wrong, 1000), code::MALFORMED_BODY, "{coding:?} {wrong:?}");
        }
    }
}

#[test]
fn the_checksum_of_a_frame_is_compared() {
    let frames = [ZSTD_CHECKED, ZSTD, ZSTD_CHECKED].concat();
    assert_eq!(decode(ContentCoding::Zstd, &frames, 100).unwrap(), TEXT.repeat(3));
    // A changed text, and a changed checksum.
    for place in [20, ZSTD_CHECKED.len() - 1] {
        let mut changed = ZSTD_CHECKED.to_vec();
        changed[place] ^= 1;
        assert_eq!(code_of(ContentCoding::Zstd, &changed, 100), code::MALFORMED_BODY, "{place}");
        assert_eq!(code_of(ContentCoding::Zstd, &[&*changed, ZSTD].concat(), 100), code::MALFORMED_BODY, "{place}");
    }
}

#[test]
fn a_body_may_have_several_parts_but_not_any_number() {
    let members = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
    assert_eq!(decode(ContentCoding::Gzip, &members, 100).unwrap(), b"one two");
    // A frame that is to be skipped.
    let frames = [ZSTD, b"\x50\x2a\x4d\x18\x02\x00\x00\x00xy", ZSTD].concat();
    assert_eq!(decode(ContentCoding::Zstd, &frames, 100).unwrap(), [TEXT, TEXT].concat());
    assert_eq!(code_of(ContentCoding::Gzip, &gzip(b"").repeat(MAX_PARTS + 1), 100), code::MALFORMED_BODY);
    let skipped = b"\x50\x2a\x4d\x18\x00\x00\x00\x00".repeat(MAX_PARTS + 1);
    assert_eq!(code_of(ContentCoding::Zstd, &skipped, 100), code::MALFORMED_BODY);
    assert_eq!(code_of(ContentCoding::Zstd, b"\x50\x2a\x4d\x18\xff\xff\xff\xff", 100), code::MALFORMED_BODY);
}

#[test]
fn a_few_bytes_do_not_become_more_than_the_limit() {
    let limit = 1_000_000;
    let zeros = vec![0; 64 << 20];
    for (coding, bomb) in [
        (ContentCoding::Gzip, gzip(&zeros)),
        (ContentCoding::Deflate, zlib(&zeros)),
        (ContentCoding::Brotli, BROTLI_BOMB.to_vec()),
        // A frame without a known size and with a window of 128 KiB: 10,000 blocks of 128 KiB in four bytes each.
        (ContentCoding::Zstd, [&b"\x28\xb5\x2f\xfd\x00\x38"[..], &b"\x02\x00\x10x".repeat(10_000)].concat()),
    ] {
        assert!(bomb.len() < limit, "{coding:?} {}", bomb.len());
        assert_eq!(code_of(coding, &bomb, limit), code::BODY_TOO_LARGE, "{coding:?}");
    }
    // Windows that only a decoder of trusted data may hold: 64 MiB of zstd, and 1 GiB of brotli.
    assert_eq!(code_of(ContentCoding::Zstd, b"\x28\xb5\x2f\xfd\x00\x80\x01\x00\x00", limit), code::MALFORMED_BODY);
    assert_eq!(code_of(ContentCoding::Brotli, b"\x11\x1e\x03", limit), code::MALFORMED_BODY);
}

#[test]
fn only_one_known_coding_is_accepted() {
    let of = |values: &[&'static str]| {
        let headers = values.iter().map(|value| (CONTENT_ENCODING, HeaderValue::from_static(value)));
        ContentCoding::of(&headers.collect()).map_err(|error| error.code().clone())
    };
    for (values, coding) in [
        (&[][..], None),
        (&[""], None),
        (&["identity"], None),
        (&["GZip"], Some(ContentCoding::Gzip)),
        (&["x-gzip"], Some(ContentCoding::Gzip)),
        (&[" deflate , Identity"], Some(ContentCoding::Deflate)),
        (&["identity", "br"], Some(ContentCoding::Brotli)),
        (&["zstd"], Some(ContentCoding::Zstd)),
    ] {
        assert_eq!(of(values), Ok(coding), "{values:?}");
    }
    for values in [&["compress"][..], &["gzip, gzip"], &["gzip", "br"], &["gzip;q=1"], &["aes128gcm"], &["g zip"]] {
        assert_eq!(of(values), Err(code::UNSUPPORTED_CONTENT_ENCODING), "{values:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_or_exceed_the_limit(bytes: Vec<u8>, begin in 0..4_usize, coding in 0..4_usize) {
        // Most random bytes fail at once, so some begin as valid data does.
        let begin = [&b""[..], b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", BROTLI, ZSTD][begin];
        if let Ok(decoded) = decode(ALL[coding], &[begin, &bytes].concat(), 4096) {
            prop_assert!(decoded.len() <= 4096);
        }
    }
}
