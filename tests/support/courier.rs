//! The courier (`tests/guests/courier`) and the receiver of its reports. Each parcel that the courier stores is committed
//! with an event and a job, and each attempt of these is reported to the receiver, which is in the process of the test:
//! whatever happens to the host, the test knows what was done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::patience::PATIENCE;
use super::polling::until;
use super::remote::{Remote, Reply};
use super::{Client, Component};

/// The grants of the courier, without the receiver's address. Its rates are no limit for a test.
const GRANTS: &str = "grant=config,events,http,jobs,sql&grant=events.rate=1000000&grant=jobs.rate=1000000\
    &grant=jobs.concurrency=8&grant=http.networks=127.0.0.0/8";

/// The time without any report after which a test gives up. The host looks at some things only each 30 seconds.
const STANDSTILL: Duration = PATIENCE.saturating_mul(3);

/// A parcel that is committed.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Parcel {
    pub(crate) id: String,
    pub(crate) lane: String,
    /// Its place in the order of the commits of its lane.
    pub(crate) place: i64,
}

/// A report of an attempt.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Step {
    /// `event`, `job`, or `tick` of the schedule.
    pub(crate) kind: String,
    /// The parcel, or the job of the schedule.
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) lane: String,
    #[serde(default)]
    pub(crate) place: i64,
    /// The time of the schedule.
    #[serde(default)]
    pub(crate) scheduled_at: Option<String>,
}

/// The receiver.
pub(crate) struct Receiver {
    remote: Remote,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// In the order of their arrival.
    steps: Vec<Step>,
    /// The kinds and ids of `steps`.
    seen: BTreeSet<(String, String)>,
    /// When the attempts that run now end at the earliest.
    running: BTreeMap<(String, String), Instant>,
    /// Attempts that began while another one of the same task ran.
    overlaps: Vec<Step>,
    /// How long each attempt takes.
    pause: Duration,
    /// Whether reports are refused.
    refuses: bool,
    /// How many were.
    refused: usize,
}

impl State {
    fn receive(&mut self, step: Step) -> Reply {
        if self.refuses {
            self.refused += 1;
            return Reply::of(503, "");
        }
        let (task, now) = ((step.kind.clone(), step.id.clone()), Instant::now());
        if self.running.get(&task).is_some_and(|end| now < *end) {
            self.overlaps.push(step.clone());
        }
        self.running.insert(task.clone(), now + self.pause);
        self.seen.insert(task);
        self.steps.push(step);
        let accepted = "HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n".to_owned();
        if self.pause.is_zero() { Reply::Say(accepted) } else { Reply::Later(self.pause, accepted) }
    }
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let state = Arc::<Mutex<State>>::default();
        let receiving = Arc::clone(&state);
        let remote = Remote::start(move |request| {
            let (_, body) = request.split_once("\r\n\r\n").unwrap();
            receiving.lock().unwrap().receive(serde_json::from_str(body).unwrap())
        })
        .await;
        Self { remote, state }
    }

    /// Deploys the courier, which reports to this receiver.
    pub(crate) async fn deploy(&self, superuser: &Client) {
        self.deploy_release(superuser, &Component::courier()).await;
    }

    /// Deploys a release of the courier.
    pub(crate) async fn deploy_release(&self, superuser: &Client, component: &Component) {
        let query = format!("{GRANTS}&grant=http.hosts={}", self.remote.origin());
        let settings = json!({ "receiver": self.remote.url("/") }).to_string();
        superuser.deploy_with_settings(&component.0, &query, &settings).await.ok();
    }

    /// Lets each attempt from now on take this long.
    pub(crate) fn set_pause(&self, pause: Duration) {
        self.state.lock().unwrap().pause = pause;
    }

    /// Refuses reports, or accepts them again.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.state.lock().unwrap().refuses = refuses;
    }

    /// Returns the number of reports that were refused.
    pub(crate) fn refused(&self) -> usize {
        self.state.lock().unwrap().refused
    }

    /// Returns the number of reports so far.
    pub(crate) fn count(&self) -> usize {
        self.state.lock().unwrap().steps.len()
    }

    /// Returns the reports of a kind so far.
    pub(crate) fn steps(&self, kind: &str) -> Vec<Step> {
        self.state.lock().unwrap().steps.iter().filter(|step| step.kind == kind).cloned().collect()
    }

    /// Returns the attempts that began while another one of the same task ran.
    pub(crate) fn overlaps(&self) -> Vec<Step> {
        self.state.lock().unwrap().overlaps.clone()
    }

    /// Waits for this many more reports.
    pub(crate) async fn until_more(&self, number: usize) {
        let enough = self.count() + number;
        until("more reports", async || (self.count() >= enough).then_some(())).await;
    }

    /// Waits until the event and the job of each parcel were processed, and returns the parcels. The wait ends early only
    /// when nothing happens any more.
    pub(crate) async fn until_processed(&self, client: &Client) -> Vec<Parcel> {
        let parcels = parcels(client).await;
        let (mut left, mut changed) = (usize::MAX, Instant::now());
        loop {
            let now = self.unprocessed(&parcels);
            if now == 0 {
                return parcels;
            }
            if now < left {
                (left, changed) = (now, Instant::now());
            }
            let count = parcels.len();
            assert!(changed.elapsed() < STANDSTILL, "{left} events and jobs of {count} parcels are not processed");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn unprocessed(&self, parcels: &[Parcel]) -> usize {
        let state = self.state.lock().unwrap();
        let tasks = parcels.iter().flat_map(|parcel| ["event", "job"].map(|kind| (kind.to_owned(), parcel.id.clone())));
        tasks.filter(|task| !state.seen.contains(task)).count()
    }

    /// Checks that nothing was processed that was not committed, and that the events of each lane came in the order of the
    /// commits. One that is repeated comes before the next one.
    pub(crate) fn check(&self, parcels: &[Parcel]) {
        let committed: BTreeSet<&str> = parcels.iter().map(|parcel| parcel.id.as_str()).collect();
        for step in self.steps("event").iter().chain(&self.steps("job")) {
            assert!(committed.contains(step.id.as_str()), "it was never committed: {step:?}");
        }
        let mut lanes = BTreeMap::<String, i64>::new();
        for step in self.steps("event") {
            let latest = lanes.entry(step.lane.clone()).or_default();
            assert!(*latest == step.place || *latest + 1 == step.place, "after place {latest} came {step:?}");
            *latest = step.place;
        }
        for parcel in parcels {
            assert!(lanes.get(&parcel.lane).is_some_and(|latest| parcel.place <= *latest), "{parcel:?}");
        }
    }
}

/// Returns the parcels that are committed.
pub(crate) async fn parcels(client: &Client) -> Vec<Parcel> {
    let mut parcels = Vec::<Parcel>::new();
    loop {
        let after = parcels.last().map_or("", |parcel| parcel.id.as_str()).to_owned();
        let page = client.get(&format!("/courier/?after={after}")).await.ok();
        let page: Vec<Parcel> = serde_json::from_value(page).unwrap();
        if page.is_empty() {
            return parcels;
        }
        parcels.extend(page);
    }
}

/// Sends parcels one after the other until the host is gone, some of which the courier loses before their commit. Returns
/// the ids of those whose commit the host has confirmed.
pub(crate) async fn send(client: Client, lane: String, number: usize) -> Vec<String> {
    let mut confirmed = Vec::new();
    for parcel in 0..number {
        let body = json!({ "lane": lane, "lost": parcel % 4 == 3 });
        let Ok(response) = client.request(Method::POST, "/courier/").json(&body).try_send().await else { break };
        match response.status {
            200 => confirmed.push(response.ok()["id"].as_str().unwrap().to_owned()),
            // It was lost, another transaction of the lane was quicker, or the host is busy or stops.
            409 | 503 => {}
            _ => panic!("{}", response.text()),
        }
    }
    confirmed
}

/// Waits until no task is left, not even a dead letter.
pub(crate) async fn until_no_task_is_left(superuser: &Client) {
    let mut left = Value::Null;
    let end = Instant::now() + STANDSTILL;
    while Instant::now() < end {
        left = superuser.get("/queues").await.ok()["data"].take();
        if left == json!([]) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("tasks are left: {left}");
}
