//! The input and the result of a deploy: an uploaded file with the operator's options, and the release that it became.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::artifact::Digest;
use super::canary::Plan;
use super::deploy_job::CompletedStage;
use super::limits::LimitOverrides;
use super::release::Release;
use super::signature::Signature;
use crate::capability::Grants;
use crate::id::PluginName;
use crate::initiator::Initiator;
use crate::route::Template;

/// An uploaded file with the operator's options.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The component.
    pub component: Bytes,
    /// Its name on this host; `None` means the name that the component declares.
    pub name: Option<PluginName>,
    /// Its mount; `None` means the mount that it has or had, else `/api/v1/<name>`.
    pub mount: Option<Template>,
    /// Grants in addition to those of the live release.
    pub grants: Grants,
    /// Limits that override those of the live release.
    pub limits: LimitOverrides,
    /// Detached signatures, in addition to those inside the file.
    pub signatures: Vec<Signature>,
    /// The digest that the file must have; `None` means any.
    pub digest: Option<Digest>,
    /// Its settings; `None` means those of the live release.
    pub settings: Option<Value>,
    /// The initiator of the deploy; the host itself deploys at start only.
    pub by: Initiator,
    /// The id under which this deploy can be looked up and repeated; `None` means the request id.
    pub id: Option<String>,
    /// Set to start a canary next to the live release; `None` replaces the live release.
    pub canary: Option<Plan>,
    /// Set when the file comes from the host's own tables and is the file of this release. Its signatures are not
    /// checked again, and the deploy fails unless this release is still the live one when the deploy gets the change
    /// lock.
    pub redeploys: Option<i64>,
}

impl Upload {
    /// Creates an upload without options: everything stays as the live release has it.
    pub fn new(component: Bytes, by: &Initiator) -> Self {
        Self {
            component,
            name: None,
            mount: None,
            grants: Grants::default(),
            limits: LimitOverrides::default(),
            signatures: Vec::new(),
            digest: None,
            settings: None,
            by: by.clone(),
            id: None,
            canary: None,
            redeploys: None,
        }
    }
}

/// The result of a deploy.
#[derive(Clone)]
pub struct Deployed {
    /// The deployed release.
    pub release: Arc<Release>,
    /// Remarks for the operator.
    pub notes: Vec<String>,
    /// The release that was live before.
    pub replaced: Option<i64>,
    /// Whether nothing changed: the same file with the same grants, limits, mount and settings was already live, or a
    /// deploy with the same id succeeded earlier.
    pub unchanged: bool,
    /// Whether a deploy at the start of the host gave way to a change by somebody else. `release` is the recorded one; it
    /// may not be served.
    pub gave_way: bool,
    /// Whether the release is a canary next to the live one.
    pub on_trial: bool,
    /// The completed stages with their durations.
    pub stages: Vec<CompletedStage>,
}

impl Deployed {
    /// Returns the result of a deploy that changed nothing.
    pub(super) fn unchanged(release: Arc<Release>) -> Self {
        Self {
            release,
            notes: Vec::new(),
            replaced: None,
            unchanged: true,
            gave_way: false,
            on_trial: false,
            stages: Vec::new(),
        }
    }
}
