//! Log lines in JSON: one object for each event, with its time, level, fields and target. The fields of a plugin's line
//! are an object of their own, because the plugin chooses their names.

use std::borrow::Cow;
use std::fmt::{self, Debug};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The target of the lines of plugins. Their field `fields` is the JSON text of an object; a line in JSON has it as an
/// object.
pub const PLUGIN_LINES: &str = "wharf::plugin::log";

/// The prefix of the fields by which the crate `log` describes an event.
pub(super) const OF_LOG_CRATE: &str = "log.";

/// Room for the line of a request.
const USUAL_BYTES: usize = 512;

/// See the module.
pub(super) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let metadata = event.metadata();
        let mut time = String::with_capacity(32);
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut line = Line { bytes: Vec::with_capacity(USUAL_BYTES), target: Cow::Borrowed(metadata.target()) };
        line.add("timestamp", &time);
        line.add("level", metadata.level().as_str());
        event.record(&mut line);
        let target = std::mem::take(&mut line.target);
        line.add("target", &*target);
        line.bytes.extend_from_slice(b"}\n");
        writer.write_str(std::str::from_utf8(&line.bytes).map_err(|_| fmt::Error)?)
    }
}

/// A line that is being written, without its closing brace. Each request has one, so no value is copied into a text of its
/// own first.
struct Line<'a> {
    bytes: Vec<u8>,
    target: Cow<'a, str>,
}

impl Line<'_> {
    fn add(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        self.add_name(name);
        self.write(value);
    }

    fn add_name(&mut self, name: &str) {
        self.bytes.push(if self.bytes.is_empty() { b'{' } else { b',' });
        self.write(name);
        self.bytes.push(b':');
    }

    fn write(&mut self, value: &(impl Serialize + ?Sized)) {
        // Writing texts and numbers to memory does not fail.
        let _ = serde_json::to_writer(&mut self.bytes, value);
    }

    /// Adds a field, unless it describes an event of the crate `log`.
    fn record(&mut self, field: &Field, value: &(impl Serialize + ?Sized)) {
        if !field.name().starts_with(OF_LOG_CRATE) {
            self.add(field.name().trim_start_matches("r#"), value);
        }
    }
}

impl Visit for Line<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.record(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.record(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.record(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "fields" && self.target == PLUGIN_LINES {
            self.add_name("fields");
            self.bytes.extend_from_slice(value.as_bytes());
        } else if field.name().strip_prefix(OF_LOG_CRATE) == Some("target") {
            self.target = Cow::Owned(value.to_owned());
        } else {
            self.record(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record(field, &format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn logged(log: impl FnOnce()) -> Value {
        let (output, writer) = io::pipe().unwrap();
        let subscriber = tracing_subscriber::fmt().with_writer(Arc::new(writer)).event_format(JsonLines).finish();
        tracing::subscriber::with_default(subscriber, log);
        let text = io::read_to_string(output).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let mut line: Value = serde_json::from_str(&text).unwrap();
        assert!(line.as_object_mut().unwrap().shift_remove("timestamp").unwrap().as_str().unwrap().ends_with('Z'));
        line
    }

    #[test]
    fn a_line_has_each_field_as_a_member() {
        let error = io::Error::other("a \"quoted\" reason");
        let line = logged(|| {
            tracing::warn!(target: "t", number = 7_u64, share = 0.5, yes = true, text = "a\nb", %error, "message {}", 1);
        });
        let expected = json!({ "level": "WARN", "message": "message 1", "number": 7, "share": 0.5, "yes": true,
            "text": "a\nb", "error": "a \"quoted\" reason", "target": "t" });
        assert_eq!(line, expected);
    }

    #[test]
    fn the_fields_of_a_plugins_line_are_an_object() {
        let fields = json!({ "level": "none", "order": "7\n\u{1b}" }).to_string();
        let line = logged(|| tracing::info!(target: PLUGIN_LINES, plugin = "items", fields, "x"));
        assert_eq!(line["fields"], json!({ "level": "none", "order": "7\n\u{1b}" }));
        assert_eq!((&line["level"], &line["plugin"]), (&json!("INFO"), &json!("items")));
        let line = logged(|| tracing::info!(target: "other", fields = "{\"a\":1}", "x"));
        assert_eq!(line["fields"], "{\"a\":1}");
    }
}
