//! An outage of something that a loop needs: logged once when it begins and once when it ends, however often the loop
//! tries. Knows neither the work nor what it needs.

use crate::error::Error;

/// See the module.
#[derive(Debug)]
pub(crate) struct Outage {
    /// The work that waits.
    work: &'static str,
    lasts: bool,
}

impl Outage {
    /// Creates the record of a loop that does this work.
    pub(crate) fn of(work: &'static str) -> Self {
        Self { work, lasts: false }
    }

    /// An attempt failed.
    pub(crate) fn failed(&mut self, error: &Error) {
        let (work, error) = (self.work, error.report());
        if self.lasts {
            tracing::debug!(work, error, "work in the background still cannot go on");
        } else {
            tracing::error!(
                work,
                error,
                "work in the background cannot go on now; nothing is lost, and it is tried again"
            );
        }
        self.lasts = true;
    }

    /// An attempt succeeded.
    pub(crate) fn over(&mut self) {
        if self.lasts {
            tracing::info!(work = self.work, "work in the background goes on");
        }
        self.lasts = false;
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use tracing_subscriber::filter::LevelFilter;

    use super::*;

    #[test]
    fn an_outage_is_logged_once_when_it_begins_and_once_when_it_ends() {
        let (output, writer) = io::pipe().unwrap();
        let subscriber = tracing_subscriber::fmt().with_writer(Arc::new(writer)).with_max_level(LevelFilter::INFO);
        tracing::subscriber::with_default(subscriber.with_ansi(false).finish(), || {
            let mut outage = Outage::of("reading");
            outage.over();
            for _ in 0..2 {
                for _ in 0..3 {
                    outage.failed(&Error::internal("out of paper"));
                }
                for _ in 0..3 {
                    outage.over();
                }
            }
        });
        let text = io::read_to_string(output).unwrap();
        let levels: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(levels, ["ERROR", "INFO", "ERROR", "INFO"], "{text}");
        assert!(text.contains("out of paper") && text.contains("reading"), "{text}");
    }
}
