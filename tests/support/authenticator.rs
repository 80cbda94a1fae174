//! An authenticator app (RFC 6238) that a test holds. It uses none of Wharf's own code.

use data_encoding::BASE32_NOPAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha1::Sha1;

use super::client::Client;
use super::host::TestHost;

/// The app of one account.
pub(crate) struct Authenticator(Vec<u8>);

impl Authenticator {
    /// Reads the key that the host shows, in base 32.
    pub(crate) fn new(key: &str) -> Self {
        Self(BASE32_NOPAD.decode(key.as_bytes()).unwrap())
    }

    /// Enrols an app for a client who just signed in. Returns it with the recovery codes. The code of the current step is
    /// used up.
    pub(crate) async fn enrol(host: &TestHost, client: &Client) -> (Self, Vec<String>) {
        let begun = client.post("/users/me/factors/totp", &json!({})).await.ok();
        let app = Self::new(begun["secret"].as_str().unwrap());
        let code = json!({ "code": app.code(host) });
        let confirmed = client.post("/users/me/factors/totp/verify", &code).await.ok();
        let codes = confirmed["recovery_codes"].as_array().unwrap().iter();
        (app, codes.map(|code| code.as_str().unwrap().to_owned()).collect())
    }

    /// Returns the code that the app shows at the time of the host.
    pub(crate) fn code(&self, host: &TestHost) -> String {
        self.code_of(host.clock().now().0.div_euclid(30_000_000))
    }

    /// Returns the code that the app shows at the time of this machine.
    pub(crate) fn code_now(&self) -> String {
        self.code_of(wharf::clock::Clock::System.now().0.div_euclid(30_000_000))
    }

    /// Returns a code that the host does not accept now.
    pub(crate) fn wrong_code(&self, host: &TestHost) -> String {
        let step = host.clock().now().0.div_euclid(30_000_000);
        let accepted: Vec<String> = (step - 1..=step + 1).map(|step| self.code_of(step)).collect();
        (0..4).map(|digit| digit.to_string().repeat(6)).find(|code| !accepted.contains(code)).unwrap()
    }

    fn code_of(&self, step: i64) -> String {
        let mut mac = Hmac::<Sha1>::new_from_slice(&self.0).unwrap();
        mac.update(&step.to_be_bytes());
        let digest = mac.finalize().into_bytes();
        let offset = usize::from(digest[19] & 15);
        let word = u32::from_be_bytes(digest[offset..offset + 4].try_into().unwrap()) & 0x7fff_ffff;
        format!("{:06}", word % 1_000_000)
    }
}
