//! One measurement: wrk sends the same request over some connections for [`TIME`]. The server runs on this machine, so its
//! CPU time and memory are read from /proc.

use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use tempfile::NamedTempFile;

use crate::Failure;
use crate::usage::{Usage, ended_children_seconds};

/// The duration of one measurement.
pub(crate) const TIME: Duration = Duration::from_secs(2);

/// A request that wrk repeats.
#[derive(Clone)]
pub(crate) struct Request {
    url: String,
    token: Option<String>,
    body: Option<Body>,
}

#[derive(Clone)]
struct Body {
    content_type: &'static str,
    text: String,
}

impl Request {
    pub(crate) fn get(url: String) -> Self {
        Self { url, token: None, body: None }
    }

    pub(crate) fn post(url: String, content_type: &'static str, text: impl Into<String>) -> Self {
        Self { url, token: None, body: Some(Body { content_type, text: text.into() }) }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Sends it once and returns the status of the response.
    pub(crate) fn status(&self) -> Result<u16, Failure> {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).build().new_agent();
        let credential = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let response = match &self.body {
            None => {
                let mut request = agent.get(self.url.as_str());
                if let Some(credential) = &credential {
                    request = request.header("Authorization", credential);
                }
                request.call()?
            }
            Some(body) => {
                let mut request = agent.post(self.url.as_str()).header("Content-Type", body.content_type);
                if let Some(credential) = &credential {
                    request = request.header("Authorization", credential);
                }
                request.send(body.text.as_str())?
            }
        };
        Ok(response.status().as_u16())
    }

    pub(crate) fn with_token(self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self }
    }
}

/// The result of one measurement.
pub(crate) struct Load {
    /// Successes per second.
    pub(crate) rate: f64,
    /// The median time of a response, in microseconds.
    pub(crate) p50: f64,
    /// The time that one in a hundred responses exceeds, in microseconds.
    pub(crate) p99: f64,
    /// CPU time of the server per response, in microseconds.
    pub(crate) cpu: f64,
    /// Resident memory of the server at the end, in MiB.
    pub(crate) memory: f64,
    /// Responses with another status than 2xx or 3xx, and requests without a response.
    pub(crate) failed: f64,
    /// All requests, with those that failed.
    pub(crate) requests: f64,
    /// The share of one core that wrk used. It has one thread, so near 1 it limits the rate.
    pub(crate) generator: f64,
}

impl Load {
    /// Measures the server that consists of these processes and their children.
    pub(crate) fn measure(request: &Request, processes: &[u32], connections: usize) -> Result<Self, Failure> {
        let (before, generator_before) = (Usage::of(processes)?, ended_children_seconds(std::process::id())?);
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", &format!("-c{connections}"), &format!("-d{}s", TIME.as_secs()), "--latency"]);
        if let Some(token) = &request.token {
            wrk.args(["-H", &format!("Authorization: Bearer {token}")]);
        }
        let script = request.body.as_ref().map(script).transpose()?;
        if let Some(script) = &script {
            wrk.arg("-s").arg(script.path());
        }
        let url = &request.url;
        let output = wrk
            .arg(url)
            .output()
            .map_err(|error| format!("wrk does not start ({error}); on Debian: apt install wrk"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            return Err(format!("{url} gave errors:\n{text}{}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let (after, generator_after) = (Usage::of(processes)?, ended_children_seconds(std::process::id())?);
        let read =
            |value: Option<f64>, what: &str| value.ok_or_else(|| format!("wrk printed no {what} of {url}:\n{text}"));
        let responses = read(word(&text, "requests in", 0), "number")?;
        if responses < 1.0 {
            return Err(format!("{url} gave no response in {} s", TIME.as_secs()).into());
        }
        // The responses contain those that were refused, and not the requests without a response.
        let (refused, unanswered) = (sum_of(&text, "Non-2xx"), sum_of(&text, "Socket errors"));
        Ok(Self {
            rate: read(word(&text, "Requests/sec", 1), "rate")? * (1.0 - refused / responses),
            p50: read(percentile(&text, "50%"), "median")?,
            p99: read(percentile(&text, "99%"), "p99")?,
            cpu: (after.cpu_seconds - before.cpu_seconds) * 1e6 / responses,
            memory: after.memory,
            failed: refused + unanswered,
            requests: responses + unanswered,
            generator: (generator_after - generator_before) / TIME.as_secs_f64(),
        })
    }
}

/// Writes the script that makes wrk send a body.
fn script(body: &Body) -> Result<NamedTempFile, Failure> {
    let mut file = NamedTempFile::new()?;
    let Body { content_type, text } = body;
    writeln!(file, "wrk.method = 'POST'\nwrk.headers['Content-Type'] = '{content_type}'\nwrk.body = [==[{text}]==]")?;
    Ok(file)
}

/// Returns a word of the first line that contains a text.
fn word(text: &str, marked: &str, index: usize) -> Option<f64> {
    text.lines().find(|line| line.contains(marked))?.split_whitespace().nth(index)?.parse().ok()
}

/// Returns a line of the distribution, such as `99%    8.07ms`, in microseconds.
fn percentile(text: &str, share: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(share))?;
    let time = line.split_whitespace().nth(1)?;
    let unit = time.trim_start_matches(|character: char| character.is_ascii_digit() || character == '.');
    let micros = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 6e7,
        _ => return None,
    };
    Some(time.strip_suffix(unit)?.parse::<f64>().ok()? * micros)
}

/// Returns the sum of the numbers in the line that contains a text, such as `Socket errors: connect 0, read 2, write 0,
/// timeout 1`. wrk prints the line only if there are such errors.
fn sum_of(text: &str, marked: &str) -> f64 {
    let words = text.lines().filter(|line| line.contains(marked)).flat_map(|line| line.split([' ', ',']));
    words.filter_map(|word| word.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "Running 1s test @ http://127.0.0.1:18998/
  1 threads and 2 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.22ms    1.67ms   8.74ms   82.83%
    Req/Sec     0.96k   215.20     1.32k    70.00%
  Latency Distribution
     50%  662.00us
     75%    2.87ms
     90%    4.89ms
     99%    1.20s
  957 requests in 1.00s, 518.88KB read
  Socket errors: connect 0, read 2, write 0, timeout 1
  Non-2xx or 3xx responses: 957
Requests/sec:    956.42
Transfer/sec:    518.57KB
";

    #[test]
    fn the_output_of_wrk_is_read() {
        assert_eq!(word(PRINTED, "requests in", 0), Some(957.0));
        assert_eq!(word(PRINTED, "Requests/sec", 1), Some(956.42));
        assert_eq!(percentile(PRINTED, "50%"), Some(662.0));
        assert_eq!(percentile(PRINTED, "99%"), Some(1.2e6));
        assert_eq!(sum_of(PRINTED, "Socket errors"), 3.0);
        assert_eq!(sum_of(PRINTED, "Non-2xx"), 957.0);
        assert_eq!(sum_of(PRINTED, "Latency Distribution"), 0.0);
    }
}
