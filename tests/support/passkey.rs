//! A software authenticator for passkeys (WebAuthn, level 3): P-256, attestation `none`, discoverable. It uses none of
//! Wharf's own code. A test can change what it signs.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};

/// One credential of an authenticator.
pub(crate) struct Passkey {
    key: EcdsaKeyPair,
    id: Vec<u8>,
    user_handle: String,
    random: SystemRandom,
    /// The claims that it signs.
    pub(crate) claims: Claims,
}

/// The statements of an authenticator and its browser.
#[derive(Clone)]
pub(crate) struct Claims {
    pub(crate) origin: String,
    pub(crate) rp_id: String,
    /// Whether a PIN or a finger confirmed the user.
    pub(crate) user_verified: bool,
    pub(crate) counter: u32,
}

const PRESENT: u8 = 0x01;
const VERIFIED: u8 = 0x04;
const ATTESTED: u8 = 0x40;

fn text(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Passkey {
    /// Creates a credential for the options that the host sent. Returns it with the response of the browser.
    pub(crate) fn create(options: &Value, claims: Claims) -> (Self, Value) {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let id = digest(&SHA256, key.public_key().as_ref()).as_ref().to_vec();
        let user_handle = options["user"]["id"].as_str().unwrap().to_owned();
        let passkey = Self { key, id, user_handle, random, claims };
        let response = passkey.registration(options);
        (passkey, response)
    }

    fn client_data(&self, kind: &str, options: &Value) -> String {
        let data = json!({
            "type": kind,
            "challenge": options["challenge"],
            "origin": self.claims.origin,
            "crossOrigin": false,
        });
        data.to_string()
    }

    fn authenticator_data(&self, flags: u8) -> Vec<u8> {
        let verified = if self.claims.user_verified { VERIFIED } else { 0 };
        let mut data = digest(&SHA256, self.claims.rp_id.as_bytes()).as_ref().to_vec();
        data.push(PRESENT | verified | flags);
        data.extend(self.claims.counter.to_be_bytes());
        data
    }

    fn registration(&self, options: &Value) -> Value {
        let mut data = self.authenticator_data(ATTESTED);
        data.extend([0; 16]);
        data.extend(u16::try_from(self.id.len()).unwrap().to_be_bytes());
        data.extend(&self.id);
        // A COSE key: EC2, ES256, P-256, x, y.
        let point = self.key.public_key().as_ref();
        data.extend([0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 0x20]);
        data.extend(&point[1..33]);
        data.extend([0x22, 0x58, 0x20]);
        data.extend(&point[33..]);
        // CBOR: {"fmt": "none", "attStmt": {}, "authData": data}
        let mut object = b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x58".to_vec();
        object.push(u8::try_from(data.len()).unwrap());
        object.extend(&data);
        json!({
            "id": text(&self.id),
            "rawId": text(&self.id),
            "type": "public-key",
            "authenticatorAttachment": "platform",
            "clientExtensionResults": {},
            "response": {
                "clientDataJSON": text(self.client_data("webauthn.create", options)),
                "attestationObject": text(object),
                "transports": ["internal"],
            },
        })
    }

    /// Signs a challenge. Returns the response of the browser.
    pub(crate) fn get(&self, options: &Value) -> Value {
        let data = self.authenticator_data(0);
        let client_data = self.client_data("webauthn.get", options);
        let signed = [data.as_slice(), digest(&SHA256, client_data.as_bytes()).as_ref()].concat();
        let signature = self.key.sign(&self.random, &signed).unwrap();
        json!({
            "id": text(&self.id),
            "rawId": text(&self.id),
            "type": "public-key",
            "authenticatorAttachment": "platform",
            "clientExtensionResults": {},
            "response": {
                "clientDataJSON": text(client_data),
                "authenticatorData": text(data),
                "signature": text(signature),
                "userHandle": self.user_handle,
            },
        })
    }
}
