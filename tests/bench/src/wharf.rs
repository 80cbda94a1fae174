//! Wharf with some plugins, as `wharf serve --deploy` starts it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::free_address::free_address;
use crate::{Failure, signal};

pub(crate) const EMAIL: &str = "admin@example.com";
pub(crate) const PASSWORD: &str = "bench password";
/// The log of a host, in its directory.
const LOG_FILE: &str = "log";

/// The most bytes of the metrics, which have some kilobytes for each plugin.
const METRICS_BYTES: u64 = 1 << 30;

/// The plugins of the ladder. The items plugin is the last one to be deployed.
const PLUGINS: [&str; 3] =
    ["target/wasm32-wasip2/plugin/gauge.wasm", "target/plugins/hello.wasm", "target/plugins/items.wasm"];

/// The host as a separate process.
pub(crate) struct Wharf {
    process: Child,
    address: String,
    token: String,
    start_time: Duration,
}

/// Opens the log in the directory of a host. If it is emptied, it grows from its beginning.
pub(crate) fn open_log(directory: &Path) -> Result<File, Failure> {
    fs::create_dir_all(directory)?;
    Ok(File::options().create(true).append(true).open(directory.join(LOG_FILE))?)
}

/// Empties the log in the directory of a host: each second adds megabytes, which the disk would have to write.
pub(crate) fn empty_log(directory: &Path) -> Result<(), Failure> {
    Ok(File::options().write(true).open(directory.join(LOG_FILE))?.set_len(0)?)
}

impl Wharf {
    /// Starts the host with the plugins of the ladder and these settings, and signs in. The directory gets its data and its
    /// log.
    pub(crate) fn start(binary: &Path, directory: &Path, settings: &[(&str, &str)]) -> Result<Self, Failure> {
        let mut command = Command::new(binary);
        command.args(["serve", "--deploy"]).args(PLUGINS);
        // Each item that is created is an event.
        command.args(["--grant", "auth,events,sql,events.rate=1000000"]);
        command.envs(settings.iter().copied()).stderr(open_log(directory)?);
        Self::attend(command, directory, ("/api/v1/items/", 401), Duration::from_secs(60))
    }

    /// Starts a host by a command, and signs in as soon as the response to a path has this status.
    pub(crate) fn serve(mut command: Command, directory: &Path, ready: (&str, u16)) -> Result<Self, Failure> {
        command.env("WHARF_LOG", "warn").stderr(Stdio::null());
        Self::attend(command, directory, ready, Duration::from_secs(60))
    }

    /// Does the same with the log and the standard error of the command, and waits at most for the given time.
    pub(crate) fn attend(
        mut command: Command,
        directory: &Path,
        ready: (&str, u16),
        patience: Duration,
    ) -> Result<Self, Failure> {
        let address = free_address()?.to_string();
        let begun = Instant::now();
        let process = command
            .env("WHARF_LISTEN", &address)
            .env("WHARF_DATA_DIR", directory.join("wharf"))
            .env("WHARF_SUPERUSER_PASSWORD", PASSWORD)
            // `identity` measures hundreds of sign-ins that fail.
            .env("WHARF_THROTTLE", "false")
            .stdout(Stdio::null())
            .spawn()?;
        let mut wharf = Self { process, address, token: String::new(), start_time: Duration::ZERO };
        let (path, status) = ready;
        while ureq::get(wharf.url(path)).call().status() != Some(status) {
            if let Some(exit) = wharf.process.try_wait()? {
                return Err(format!("wharf ended with {exit}").into());
            }
            if begun.elapsed() > patience {
                let seconds = patience.as_secs();
                return Err(format!("wharf does not respond to {path} with {status} within {seconds} s").into());
            }
            // The measured start is too long by one wait at most. A wait is a twentieth of the time so far, but 1 ms to 100 ms,
            // so the requests hardly disturb the start.
            std::thread::sleep((begun.elapsed() / 20).clamp(Duration::from_millis(1), Duration::from_millis(100)));
        }
        wharf.start_time = begun.elapsed();
        let response: Value = ureq::post(wharf.url("/api/v1/login/access-token"))
            .send_form([("username", EMAIL), ("password", PASSWORD)])?
            .body_mut()
            .read_json()?;
        wharf.token = response.get("access_token").and_then(Value::as_str).ok_or("no token")?.to_owned();
        Ok(wharf)
    }

    /// Creates items.
    pub(crate) fn create_items(&self, items: usize) -> Result<(), Failure> {
        for index in 0..items {
            ureq::post(self.url("/api/v1/items/"))
                .header("Authorization", format!("Bearer {}", self.token))
                .send_json(json!({ "title": format!("Item {index}") }))?;
        }
        Ok(())
    }

    /// Sends a request without a body.
    pub(crate) fn post(&self, path: &str) -> Result<(), Failure> {
        ureq::post(self.url(path)).send_empty()?;
        Ok(())
    }

    /// Lets the host shut down, and waits for its end.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        signal::send("TERM", self.pid())?;
        let exit = self.process.wait()?;
        if exit.success() { Ok(()) } else { Err(format!("wharf ended with {exit}").into()) }
    }

    /// Returns the time from the start of the process to the first response that showed that it serves.
    pub(crate) fn start_time(&self) -> Duration {
        self.start_time
    }

    /// Returns the metrics of one moment.
    pub(crate) fn metrics(&self) -> Result<Metrics, Failure> {
        let credential = format!("Bearer {}", self.token);
        let response = ureq::get(self.url("/metrics")).header("Authorization", credential).call()?;
        Ok(Metrics(response.into_body().into_with_config().limit(METRICS_BYTES).read_to_string()?))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Wharf {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The samples of one scrape.
pub(crate) struct Metrics(String);

impl Metrics {
    /// Returns the value of a sample; zero if it is not there.
    pub(crate) fn sample(&self, name_and_labels: &str) -> Result<f64, Failure> {
        let value = self.0.lines().find_map(|line| line.strip_prefix(name_and_labels)?.strip_prefix(' '));
        Ok(value.map_or(Ok(0.0), str::parse)?)
    }
}

/// The status of a response, whether or not ureq treats it as an error.
trait Status {
    fn status(&self) -> Option<u16>;
}

impl<B> Status for Result<ureq::http::Response<B>, ureq::Error> {
    fn status(&self) -> Option<u16> {
        match self {
            Ok(response) => Some(response.status().as_u16()),
            Err(ureq::Error::StatusCode(status)) => Some(*status),
            Err(_) => None,
        }
    }
}
