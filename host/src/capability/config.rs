//! `wharf:config`: the settings that the operator gave the plugin, validated against the plugin's schema at deploy.

use std::sync::Arc;

use serde_json::Value;
use wasmtime::component::{HasSelf, Linker};

use super::{Boot, CallContext, Candidate, Capability, Guest, HostCalls, NoParameters};
use crate::error::Result;
use crate::route::integers;

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    wasmtime::component::bindgen!({
        inline: "package wharf:host-config; world imports { import wharf:config/settings@0.1.0; }",
        path: "../wit",
        imports: { default: trappable },
    });
}
use bindings::wharf::config::settings;

/// The capability.
pub struct PluginSettings;

impl Capability for PluginSettings {
    const NAME: &'static str = "config";
    const MEANING: &'static str = "may read the settings that you give it";
    const INTERFACES: &'static [&'static str] = &["wharf:config/settings@0.1.0"];
    type Grant = NoParameters;
    type Release = Arc<Value>;
    type Call = Arc<Value>;

    async fn open(_: &Boot) -> Result<Self> {
        Ok(Self)
    }

    fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        settings::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
    }

    async fn admit(&self, candidate: &Candidate<'_>, _: NoParameters) -> Result<Arc<Value>> {
        let mut settings = candidate.settings.clone();
        // The schema accepts `1.0` as an integer, and not every guest reads it as one.
        integers::rewrite_value(&mut settings);
        Ok(Arc::new(settings))
    }

    fn enter(release: &Arc<Value>, _: &Arc<CallContext>) -> Self::Call {
        Arc::clone(release)
    }
}

impl settings::Host for Guest {
    fn all(&mut self) -> wasmtime::Result<String> {
        self.charge(HostCalls::config)?;
        let settings = self.entered.config()??.to_string();
        self.hold_result(self.reserve(settings.len())?);
        Ok(settings)
    }

    fn get(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        self.charge(HostCalls::config)?;
        let setting = self.entered.config()??.get(&name).map(Value::to_string);
        self.hold_result(self.reserve(setting.as_ref().map_or(0, String::len))?);
        Ok(setting)
    }
}
