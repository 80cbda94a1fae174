//! Converts PostgreSQL's binary `numeric` to and from plain decimal text, exactly: no float, no rounding, the scale is
//! kept.

/// The maximum number of digits, counted as they are written without an exponent. A number that is accepted comes back
/// as a text that is accepted too.
const MAX_DIGITS: usize = 2_000;

const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xc000;
const PLUS_INFINITY: u16 = 0xd000;
const MINUS_INFINITY: u16 = 0xf000;

/// Returns the binary form of `[+-]digits[.digits][e[+-]digits]`; `None` for any other text.
pub(super) fn encode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim();
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (NEGATIVE, rest),
        None => (POSITIVE, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    let mut digits: Vec<u8> = Vec::new();
    for byte in whole.bytes().chain(fraction.bytes()) {
        digits.push(byte.is_ascii_digit().then(|| byte.wrapping_sub(b'0'))?);
    }
    let limit = i64::try_from(MAX_DIGITS).ok()?;
    // The position of the decimal point, counted from the first digit.
    let point = i64::try_from(whole.len()).ok()?.checked_add(i64::from(exponent))?;
    let length = i64::try_from(digits.len()).ok()?;
    let scale = length.checked_sub(point)?.max(0);
    if length > limit || point.max(0).checked_add(scale)? > limit {
        return None;
    }
    let scale = u16::try_from(scale).ok()?;
    // Groups of four digits are counted from the point, so the first and the last are padded with zeros.
    let before = usize::try_from(point.rem_euclid(4)).ok()?;
    let lead = if before == 0 { 0 } else { 4_usize.checked_sub(before)? };
    let mut padded = vec![0_u8; lead];
    padded.extend(digits);
    while padded.len() % 4 != 0 {
        padded.push(0);
    }
    let mut groups: Vec<u16> = padded
        .chunks(4)
        .map(|group| group.iter().fold(0_u16, |value, digit| value.wrapping_mul(10).wrapping_add(u16::from(*digit))))
        .collect();
    let mut weight = i16::try_from(point.checked_add(i64::try_from(lead).ok()?)?.div_euclid(4).checked_sub(1)?).ok()?;
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let leading = groups.iter().take_while(|group| **group == 0).count();
    groups.drain(..leading);
    weight = weight.checked_sub(i16::try_from(leading).ok()?)?;
    let (sign, weight) = if groups.is_empty() { (POSITIVE, 0) } else { (sign, weight) };
    let mut out = Vec::with_capacity(groups.len().saturating_mul(2).saturating_add(8));
    out.extend(i16::try_from(groups.len()).ok()?.to_be_bytes());
    out.extend(weight.to_be_bytes());
    out.extend(sign.to_be_bytes());
    out.extend(scale.to_be_bytes());
    for group in groups {
        out.extend(group.to_be_bytes());
    }
    Some(out)
}

/// Returns the plain decimal text of the binary form; `None` if the bytes are invalid.
pub(super) fn decode(bytes: &[u8]) -> Option<String> {
    let mut words = bytes.chunks_exact(2).filter_map(|pair| Some(u16::from_be_bytes(pair.try_into().ok()?)));
    let count = usize::from(words.next()?);
    let weight = i32::from(words.next()?.cast_signed());
    let sign = words.next()?;
    let scale = usize::from(words.next()?);
    match sign {
        NAN => return Some("NaN".to_owned()),
        PLUS_INFINITY => return Some("Infinity".to_owned()),
        MINUS_INFINITY => return Some("-Infinity".to_owned()),
        _ => {}
    }
    let groups: Vec<u16> = words.collect();
    if groups.len() != count {
        return None;
    }
    let group = |weight_of: i32| {
        let index = weight.checked_sub(weight_of).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| groups.get(index)).copied().unwrap_or(0)
    };
    let mut text = String::new();
    for weight_of in (0..=weight.max(0)).rev() {
        text.push_str(&format!("{:04}", group(weight_of)));
    }
    let whole = text.trim_start_matches('0');
    let mut text = if whole.is_empty() { "0".to_owned() } else { whole.to_owned() };
    if scale > 0 {
        let mut fraction = String::new();
        let mut weight_of = -1;
        while fraction.len() < scale {
            fraction.push_str(&format!("{:04}", group(weight_of)));
            weight_of -= 1;
        }
        fraction.truncate(scale);
        text.push('.');
        text.push_str(&fraction);
    }
    Some(if sign == NEGATIVE { format!("-{text}") } else { text })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_converted_without_loss() {
        for (text, plain) in [
            ("0", "0"),
            ("0.00", "0.00"),
            ("-0", "0"),
            ("1", "1"),
            ("-1.50", "-1.50"),
            ("+12345.6789", "12345.6789"),
            ("0.00001", "0.00001"),
            ("100000000", "100000000"),
            ("1e3", "1000"),
            ("1.5e-3", "0.0015"),
            (".5", "0.5"),
            ("99999.99990", "99999.99990"),
            ("0001.5", "1.5"),
            ("1e-20", "0.00000000000000000001"),
        ] {
            assert_eq!(encode(text).and_then(|bytes| decode(&bytes)).as_deref(), Some(plain), "{text}");
        }
        let small = format!("0.{}1", "0".repeat(MAX_DIGITS - 1));
        for text in ["1e-2000", "0e-2000", &small, "1e1999", "0000e5"] {
            let plain = encode(text).and_then(|bytes| decode(&bytes));
            assert_eq!(plain.as_deref().and_then(encode), encode(text), "{text} comes back as a text that is refused");
            assert!(plain.is_some(), "{text}");
        }
        for text in [
            "1e-2001",
            "1e2000",
            "12e-2001",
            "",
            "-",
            ".",
            "e5",
            "1e",
            "1e999999999",
            "1e99999",
            "NaN",
            "1.2.3",
            "1,5",
            "0x10",
            "١",
        ] {
            assert_eq!(encode(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn plain_decimals_are_converted_without_loss(text in r"-?[1-9][0-9]{0,30}(\.[0-9]{1,30})?") {
            prop_assert_eq!(encode(&text).and_then(|bytes| decode(&bytes)), Some(text));
        }

        #[test]
        fn no_text_and_no_bytes_panic(text in r"[-+0-9.eE]{0,40}", bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = encode(&text);
            let _ = decode(&bytes);
        }
    }
}
