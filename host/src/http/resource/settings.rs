//! The settings that the host was started with, as `wharf config show` lists them on the machine. Secrets are redacted
//! where settings are read (`config`), so none gets here.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use crate::config::Setting;
use crate::error::Result;
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::Reply;
use crate::permission::HostPermission;

/// Returns the route of the settings.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::get("/api/v1/settings/", read_settings)
            .permission(HostPermission::SettingsRead)
            .named("settings", "read_settings", "Read Settings")
            .described("Lists every setting that the host was started with, and its source. Secrets are redacted.")
            .replies::<SettingsPublic>(),
    ]
}

/// A setting.
#[derive(Serialize, JsonSchema)]
struct SettingPublic {
    /// The name, such as `server.listen`.
    key: String,
    /// The variable that sets it.
    variable: String,
    /// The value; null if it is not set, and redacted if it is a secret.
    value: Option<String>,
    /// The source of the value: `default`, a line of the file, a variable or a flag.
    origin: String,
}

impl From<&Setting> for SettingPublic {
    fn from(setting: &Setting) -> Self {
        Self {
            key: setting.key.to_string(),
            variable: setting.env.to_string(),
            value: setting.value.clone(),
            origin: setting.origin.to_string(),
        }
    }
}

#[derive(Serialize, JsonSchema)]
struct SettingsPublic {
    data: Vec<SettingPublic>,
    count: usize,
}

async fn read_settings(host: Arc<Host>, _: Call) -> Result<Reply> {
    let data: Vec<SettingPublic> = host.settings.iter().map(SettingPublic::from).collect();
    Reply::json(&SettingsPublic { count: data.len(), data })
}
