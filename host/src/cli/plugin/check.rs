//! `wharf plugin check`: runs the checks of a deploy on a file, without a host. With `--against` it also compares the
//! file with a plugin's live release.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::capabilities;
use super::diff::{Diff, release_path};
use super::view::inspection;
use crate::cli::api::{Api, PLUGINS, Remote};
use crate::cli::failure::Failure;
use crate::cli::terminal::Terminal;
use crate::config;
use crate::id::PluginName;
use crate::plugin::inspection::{DeclarationReport, Inspection};
use crate::route::Template;

/// Describe a file and check whether it can be deployed.
#[derive(Debug, Args)]
pub(crate) struct CheckCommand {
    /// The component
    file: PathBuf,
    /// Also compare it with the live release of a plugin
    #[arg(long, value_name = "NAME")]
    against: Option<PluginName>,
    #[command(flatten)]
    remote: Remote,
}

/// The differences between a file and the live release.
struct Comparison {
    live: i64,
    diff: Diff,
    missing: Vec<String>,
    /// The reason why the live release's settings, which a deploy takes over, do not fit.
    settings: Option<String>,
}

impl CheckCommand {
    pub(super) fn run(self, terminal: &Terminal) -> Result<(), Failure> {
        let path = self.file.display().to_string();
        let bytes = std::fs::read(&self.file).map_err(|error| Failure::usage(format!("{path}: {error}")))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(format!("the runtime cannot start: {error}")))?;
        let limits = config::Plugins::default();
        let inspection = runtime.block_on(Inspection::of(bytes.into(), &limits));
        let inspection = inspection.map_err(|error| Failure::host(&error))?;
        let comparison = match (&self.against, &inspection.declared) {
            (Some(name), Some(declared)) => {
                Some((name, Comparison::of(&inspection, declared, name, &Api::open(&self.remote)?)?))
            }
            _ => None,
        };

        let mut report = serde_json::to_value(&inspection).unwrap_or_default();
        if let (Some((name, comparison)), Some(report)) = (&comparison, report.as_object_mut()) {
            report.insert("against".to_owned(), comparison.to_json(name));
        }
        if terminal.is_json() {
            terminal.json(&report);
        } else {
            inspection::inspection(&report, terminal);
            if let Some((name, comparison)) = &comparison {
                comparison.show(name, terminal);
            }
        }
        match &inspection.refused {
            Some(refusal) => {
                let mut failure = Failure::new(&refusal.reason);
                failure.details.push(format!("stage: {}", refusal.stage.as_str()));
                failure.members.insert("code".to_owned(), json!(refusal.code));
                failure.members.insert("stage".to_owned(), json!(refusal.stage));
                Err(failure)
            }
            None => {
                let needs: Vec<&str> = match &comparison {
                    None => {
                        let parameters = inspection.needs_parameters.iter().map(String::as_str);
                        inspection.needs.iter().copied().chain(parameters).collect()
                    }
                    Some((_, comparison)) => comparison.missing.iter().map(String::as_str).collect(),
                };
                let grant = if needs.is_empty() { String::new() } else { format!(" --grant {}", needs.join(",")) };
                terminal.hint(format!("`wharf plugin deploy {path}{grant}` deploys it"));
                Ok(())
            }
        }
    }
}

impl Comparison {
    fn of(
        inspection: &Inspection,
        declared: &DeclarationReport,
        name: &PluginName,
        api: &Api,
    ) -> Result<Self, Failure> {
        let plugin = api.get(&format!("{PLUGINS}{name}"))?;
        let number = plugin.pointer("/release/number").and_then(Value::as_i64);
        let live = number.ok_or_else(|| Failure::new(format!("{} did not report the live release", api.url())))?;
        let release = api.get(&release_path(name, live))?;
        let names = |value, list| super::view::members(value, list).filter_map(Value::as_str).collect::<Vec<_>>();
        let (granted, revoked) = (names(&release, "grants"), names(&plugin, "revoked"));
        let has = |need: &&&str| granted.contains(*need) && !revoked.contains(*need);
        let missing = inspection.needs.iter().filter(|need| !has(need));
        let settings = release.get("settings").map(|settings| declared.check_settings(settings));
        Ok(Self {
            live,
            diff: Diff::of(&release, &deployed(inspection, declared, &release)),
            missing: missing.map(ToString::to_string).collect(),
            settings: settings.and_then(Result::err).map(|error| error.public().to_owned()),
        })
    }

    fn to_json(&self, name: &PluginName) -> Value {
        json!({
            "plugin": name.as_str(), "release": self.live, "diff": self.diff, "missing_grants": self.missing,
            "settings": self.settings,
        })
    }

    fn show(&self, name: &PluginName, terminal: &Terminal) {
        terminal.line("");
        terminal.line(format!("{} release {} → this file", terminal.bold(name.as_str()), self.live));
        self.diff.show(terminal);
        for capability in &self.missing {
            let label = terminal.warning("not granted:");
            terminal.line(format!("  {label} {capability}  {}", capabilities::meaning(capability)));
        }
        if let Some(reason) = &self.settings {
            let reason = super::view::printable(reason);
            terminal.line(format!("  {} {reason}; set others with --settings", terminal.warning("settings:")));
        }
    }
}

/// Returns the release that a deploy of the file would create, in the form of the operator API.
fn deployed(inspection: &Inspection, declared: &DeclarationReport, live: &Value) -> Value {
    let of_live = |name: &str| live.get(name).cloned().unwrap_or_default();
    // The limits of a grant stay with it.
    let limits = super::view::members(live, "grants").filter_map(Value::as_str).filter(|grant| {
        grant.split_once('.').is_some_and(|(capability, _)| inspection.needs.iter().any(|need| *need == capability))
    });
    let grants: Vec<&str> = inspection.needs.iter().copied().chain(limits).collect();
    let mount: Option<Template> = live.get("mount").and_then(Value::as_str).and_then(|text| text.parse().ok());
    let path = |path: &Template| mount.as_ref().map_or_else(|| path.clone(), |mount| path.below(mount)).to_string();
    let routes = declared.routes.iter();
    let routes: Vec<Value> = routes
        .map(|route| json!({ "method": route.method, "path": path(&route.path), "access": route.access }))
        .collect();
    json!({
        "version": declared.version, "digest": inspection.digest, "size": inspection.size, "mount": of_live("mount"),
        "summary": declared.summary, "routes": routes, "permissions": declared.permissions,
        "topics": declared.messages.topics, "subscriptions": declared.messages.subscriptions,
        "jobs": declared.messages.jobs, "schedules": declared.messages.schedules,
        "grants": grants, "migrations": declared.migrations, "settings": of_live("settings"),
        "limits": of_live("limits"),
    })
}
