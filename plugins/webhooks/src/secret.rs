//! Secrets and signatures, as the Standard Webhooks specification (version 1.0.0) defines the symmetric ones.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use wharf_sdk::prelude::*;

const PREFIX: &str = "whsec_";

/// The bytes of a new key. The specification allows 24 to 64.
const KEY_BYTES: usize = 32;

/// Returns a new secret: `whsec_…`.
pub(crate) fn generate() -> Result<String> {
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(|error| Problem::internal(format_args!("no random bytes: {error}")))?;
    Ok(format!("{PREFIX}{}", STANDARD.encode(key)))
}

/// Signs a message: `v1,…`. Returns `None` if the text is no secret. An id has no full stop, so the parts cannot be shifted.
pub(crate) fn sign(secret: &str, id: Uuid, timestamp: i64, body: &str) -> Option<String> {
    sign_text(secret, &format!("{id}.{timestamp}.{body}"))
}

fn sign_text(secret: &str, text: &str) -> Option<String> {
    let key = STANDARD.decode(secret.strip_prefix(PREFIX)?).ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
    mac.update(text.as_bytes());
    Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// From the tests of the libraries of the specification.
    #[test]
    fn a_signature_is_that_of_the_specification() {
        let text = r#"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{"test": 2432232314}"#;
        let signature = sign_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", text);
        assert_eq!(signature.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
        assert_eq!(sign_text("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", text), None);
        assert_eq!(sign_text("whsec_?", text), None);
    }

    #[test]
    fn the_id_the_time_and_the_body_are_signed() {
        let (secret, id) = (generate().unwrap(), Uuid::from_u128(1));
        let text = format!("{id}.7.{{}}");
        assert_eq!(sign(&secret, id, 7, "{}"), sign_text(&secret, &text));
        assert_ne!(sign(&secret, id, 7, "{}"), sign(&secret, id, 8, "{}"));
    }

    #[test]
    fn each_secret_is_new_and_long_enough() {
        let (first, second) = (generate().unwrap(), generate().unwrap());
        assert_ne!(first, second);
        let key = STANDARD.decode(first.strip_prefix(PREFIX).unwrap()).unwrap();
        assert_eq!(key.len(), 32);
    }
}
