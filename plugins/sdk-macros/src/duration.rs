//! Times in attributes: `"500ms"`, `"10s"`, `"5m"`, `"1h"`.

use syn::{Error, LitStr, Result};

/// Returns a time that is longer than nothing, in milliseconds.
pub(crate) fn milliseconds(text: &LitStr) -> Result<u32> {
    let value = text.value();
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = value.split_at_checked(digits).unwrap_or_default();
    let factor: u32 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    match number.parse::<u32>().ok().and_then(|number| number.checked_mul(factor)) {
        Some(milliseconds @ 1..) => Ok(milliseconds),
        _ => Err(Error::new(
            text.span(),
            "write a time such as `\"500ms\"`, `\"10s\"`, `\"5m\"` or `\"1h\"`, up to 49 days",
        )),
    }
}
