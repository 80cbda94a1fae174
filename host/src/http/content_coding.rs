//! Content codings of request bodies (RFC 9110, section 8.4.1): gzip, deflate, br and zstd. The size limit of a body
//! counts its bytes after decoding, and the decoded bytes count as body memory while they are produced.
//!
//! Decoding has no await, and its time grows with the bytes that go in and come out. A few bytes can become megabytes,
//! so `http::body_work` always runs it. Never decodes twice: a body with several codings is refused.

use std::io::Read;
use std::panic::AssertUnwindSafe;

use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, HeaderValue};
use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::bufread::GzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

use super::body::{self, ReadBody};
use crate::error::{Error, Kind, Result, code};

/// `Accept-Encoding` of a 415.
pub(super) const ACCEPTED: HeaderValue = HeaderValue::from_static("gzip, deflate, br, zstd");

/// Size of the pieces in which decoded bytes are produced and counted.
const PIECE_BYTES: usize = 32 * 1024;

/// The maximum number of parts of a body (gzip members, zstd frames). Each part sets up a decoder.
const MAX_PARTS: usize = 1024;

/// The largest window of a zstd frame (RFC 9659, section 3). A decoder holds one in memory.
const MAX_WINDOW_BYTES: u64 = 8 * 1024 * 1024;

/// A content coding that is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentCoding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl ContentCoding {
    /// Returns the coding that the headers name. `None` means that the body is not coded.
    ///
    /// # Errors
    /// 415: another coding, or several ones.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>> {
        let values = headers.get_all(CONTENT_ENCODING).iter();
        let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        let mut names = names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity"));
        let Some(name) = names.next() else { return Ok(None) };
        let coding = match name.to_ascii_lowercase().as_slice() {
            b"gzip" | b"x-gzip" => Some(Self::Gzip),
            b"deflate" => Some(Self::Deflate),
            b"br" => Some(Self::Brotli),
            b"zstd" => Some(Self::Zstd),
            _ => None,
        };
        match (coding, names.next()) {
            (Some(coding), None) => Ok(Some(coding)),
            _ => {
                let text = "The host does not decode this Content-Encoding";
                Err(Error::new(Kind::UnsupportedMediaType, code::UNSUPPORTED_CONTENT_ENCODING, text))
            }
        }
    }

    /// Decodes a body to at most `limit` bytes. Its time grows with both sizes.
    ///
    /// # Errors
    /// 400: the body does not fit the coding. 413: it has more bytes than the limit. 503: the memory for bodies is used
    /// up.
    pub(super) fn decode(self, mut read: ReadBody, limit: usize) -> Result<ReadBody> {
        let encoded = read.bytes.clone();
        let mut decoded = Vec::new();
        let mut take = |piece: &[u8]| {
            if piece.len() > limit - decoded.len() {
                return Err(body::too_large());
            }
            read.reserve_more(decoded.len() + piece.len())?;
            decoded.extend_from_slice(piece);
            Ok(())
        };
        // No input may be a defect of the host, so a panic of a decoder counts as malformed input.
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| match self {
            Self::Gzip => self.decode_gzip(&encoded, &mut take),
            Self::Deflate => self.decode_deflate(&encoded, &mut take),
            Self::Brotli => self.decode_brotli(&encoded, &mut take),
            Self::Zstd => self.decode_zstd(&encoded, &mut take),
        }));
        result.unwrap_or_else(|_| Err(self.malformed().with_internal("the decoder panicked")))?;
        read.replace_bytes(decoded.into());
        Ok(read)
    }

    fn decode_gzip(self, mut encoded: &[u8], take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        for _ in 0..MAX_PARTS {
            let mut decoder = GzDecoder::new(encoded);
            self.pump(&mut decoder, take)?;
            encoded = decoder.into_inner();
            if encoded.is_empty() {
                return Ok(());
            }
        }
        Err(self.malformed().with_internal("too many members"))
    }

    /// Decodes the zlib format. Some clients send its content without the frame (RFC 9110, section 8.4.1.2).
    fn decode_deflate(self, encoded: &[u8], take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let is_framed = match encoded {
            // The method, and a check of both bytes (RFC 1950, section 2.2).
            [method, flags, ..] => method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31),
            _ => false,
        };
        // The readers of flate2 take the end of the input for the end of the data.
        let mut decoder = Decompress::new(is_framed);
        let mut piece = vec![0; PIECE_BYTES];
        let mut rest = encoded;
        loop {
            let (before_in, before_out) = (decoder.total_in(), decoder.total_out());
            let status = decoder.decompress(rest, &mut piece, FlushDecompress::None);
            let status = status.map_err(|error| self.malformed().with_source(error))?;
            let moved = |now: u64, before: u64| usize::try_from(now - before).unwrap_or(usize::MAX);
            let (read, written) = (moved(decoder.total_in(), before_in), moved(decoder.total_out(), before_out));
            rest = rest.get(read..).unwrap_or_default();
            take(piece.get(..written).unwrap_or_default())?;
            match status {
                Status::StreamEnd if rest.is_empty() => return Ok(()),
                Status::Ok | Status::BufError if read > 0 || written > 0 => {}
                _ => return Err(self.malformed()),
            }
        }
    }

    fn decode_brotli(self, encoded: &[u8], take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let allocate = StandardAlloc::default;
        // Without the windows of up to 1 GiB that are not in RFC 7932.
        let mut state = BrotliState::new_strict(allocate(), allocate(), allocate());
        let (mut available, mut offset, mut total) = (encoded.len(), 0, 0);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let (mut free, mut filled) = (piece.len(), 0);
            let result = BrotliDecompressStream(
                &mut available,
                &mut offset,
                encoded,
                &mut free,
                &mut filled,
                &mut piece,
                &mut total,
                &mut state,
            );
            take(piece.get(..filled).unwrap_or_default())?;
            match result {
                BrotliResult::NeedsMoreOutput => {}
                BrotliResult::ResultSuccess if available == 0 => return Ok(()),
                _ => return Err(self.malformed()),
            }
        }
    }

    fn decode_zstd(self, mut encoded: &[u8], take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        for _ in 0..MAX_PARTS {
            match StreamingDecoder::new_with_max_window_size(&mut encoded, MAX_WINDOW_BYTES) {
                Ok(mut decoder) => {
                    self.pump(&mut decoder, take)?;
                    let decoder = decoder.into_frame_decoder();
                    // A frame may have no checksum.
                    let declared = decoder.get_checksum_from_data();
                    if declared.is_some() && declared != decoder.get_calculated_checksum() {
                        return Err(self.malformed().with_internal("a checksum differs"));
                    }
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    encoded = encoded.get(length..).ok_or_else(|| self.malformed())?;
                }
                Err(error) => return Err(self.malformed().with_internal(error)),
            }
            if encoded.is_empty() {
                return Ok(());
            }
        }
        Err(self.malformed().with_internal("too many frames"))
    }

    fn pump(self, decoder: &mut dyn Read, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match decoder.read(&mut piece).map_err(|error| self.malformed().with_source(error))? {
                0 => return Ok(()),
                length => take(piece.get(..length).unwrap_or_default())?,
            }
        }
    }

    fn malformed(self) -> Error {
        let text = match self {
            Self::Gzip => "The body is not valid gzip",
            Self::Deflate => "The body is not valid deflate",
            Self::Brotli => "The body is not valid br",
            Self::Zstd => "The body is not valid zstd",
        };
        Error::bad_request(code::MALFORMED_BODY, text)
    }
}

/// Returns the most bytes that a coded body of at most `limit` decoded bytes may have. Data that cannot be compressed
/// grows a little.
pub(super) fn most_received(limit: usize) -> usize {
    limit.saturating_add(limit / 16).saturating_add(1024)
}

#[cfg(test)]
mod tests;
