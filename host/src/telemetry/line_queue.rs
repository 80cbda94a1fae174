//! The queue between the threads that log and the output of the log. It is bounded in bytes, because one line of a
//! plugin may have hundreds of kilobytes. (`tracing-appender` bounds the number of lines.) Owns the number of lines that
//! were dropped, and the room that only errors of the host have. Only its own thread ever waits for the output.
//!
//! The thread writes the first line at once. Then it lets lines gather for some milliseconds, so that a busy host makes
//! one system call for many lines: waking the thread for each line and writing it took a tenth of a short request.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use super::json_lines::PLUGIN_LINES;
use super::line_output::LineOutput;

/// The target of errors that plugins, clients and outages cause in any number. They have no room of their own.
pub const CALL_ERRORS: &str = "wharf::http::problem::call";

/// Bytes for errors of the host beyond those of the queue: a flood of other lines must not hide why something failed.
const ERROR_BYTES: usize = 1024 * 1024;

/// Bytes for the reports of dropped lines, beyond those for errors. There is one for each write at most, so they always fit.
const REPORT_BYTES: usize = 64 * 1024;

/// How long lines gather after a write.
const GATHERING_TIME: Duration = Duration::from_millis(5);

/// Bytes of lines that are written without gathering more.
const GATHERED_BYTES: usize = 64 * 1024;

/// See the module.
pub(super) struct LineQueue {
    bytes: usize,
    state: Mutex<State>,
    filled: Condvar,
    written: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Whole lines.
    waiting: Vec<u8>,
    /// The number of lines so far that fitted.
    added: u64,
    /// The number of those that were written, or whose write failed.
    ended: u64,
    /// The number of bytes for which the thread waits. `None` if it does not wait, or was woken already: most lines need
    /// no system call.
    awaited: Option<usize>,
    /// The number of threads that wait until the lines are written.
    flushing: usize,
}

impl LineQueue {
    /// Creates a queue for at most `bytes`, and some more for errors.
    pub(super) fn new(bytes: usize) -> Self {
        let (filled, written) = (Condvar::new(), Condvar::new());
        Self { bytes, state: Mutex::default(), filled, written, dropped: AtomicU64::new(0) }
    }

    /// Starts the thread that writes the lines.
    pub(super) fn start(queue: &Arc<Self>, output: impl Write + Send + 'static) -> io::Result<()> {
        let queue = Arc::clone(queue);
        std::thread::Builder::new().name("wharf-log".to_owned()).spawn(move || queue.run(output)).map(drop)
    }

    /// Adds a line, or counts it as dropped if it does not fit into the queue and the room beyond it. Never waits for the
    /// output.
    pub(super) fn push(&self, line: &[u8], room: usize) {
        let mut state = self.lock();
        let bytes = state.waiting.len().saturating_add(line.len());
        if bytes > self.bytes.saturating_add(room) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.waiting.extend_from_slice(line);
        state.added += 1;
        if state.awaited.is_some_and(|awaited| bytes >= awaited) {
            state.awaited = None;
            drop(state);
            self.filled.notify_one();
        }
    }

    /// Returns the number of dropped lines.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until the lines so far are written, at most for `limit`. Later lines do not prolong it.
    pub(super) fn flush(&self, limit: Duration) {
        let mut state = self.lock();
        let until = state.added;
        state.flushing += 1;
        self.filled.notify_one();
        let waited = self.written.wait_timeout_while(state, limit, |state| state.ended < until);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.flushing -= 1;
    }

    fn run(&self, output: impl Write) {
        let mut output = LineOutput::new(output);
        let mut batch = Vec::new();
        let mut reported = 0;
        loop {
            let lines = self.take(&mut batch);
            let is_written = output.write_lines(&batch).is_ok();
            batch.clear();
            if !is_written {
                self.dropped.fetch_add(lines, Ordering::Relaxed);
            }
            self.lock().ended += lines;
            self.written.notify_all();
            let dropped = self.dropped();
            // If the reader has closed its end, or the disk is full, the report would be lost like the lines.
            if is_written && dropped > reported {
                let lines = dropped - reported;
                reported = dropped;
                tracing::warn!(lines, "log lines were dropped because standard error did not take them in time");
            }
            self.gather();
        }
    }

    /// Waits for lines and moves them to `batch`, which is empty. Returns their number.
    fn take(&self, batch: &mut Vec<u8>) -> u64 {
        let mut state = self.lock();
        state.awaited = Some(1);
        let waited = self.filled.wait_while(state, |state| state.waiting.is_empty());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.waiting, batch);
        state.awaited = None;
        state.added - state.ended
    }

    /// Lets lines gather for a moment. Ends early if there are many, or if a thread waits for them to be written.
    fn gather(&self) {
        let mut state = self.lock();
        state.awaited = Some(GATHERED_BYTES);
        let are_few = |state: &mut State| state.flushing == 0 && state.waiting.len() < GATHERED_BYTES;
        drop(self.filled.wait_timeout_while(state, GATHERING_TIME, are_few));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the formatter of the log its writer.
pub(super) struct QueueWriter(pub(super) Arc<LineQueue>);

impl<'a> MakeWriter<'a> for QueueWriter {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> LineWriter<'a> {
        LineWriter { queue: &self.0, room: 0 }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> LineWriter<'a> {
        let (target, is_error) = (metadata.target(), *metadata.level() == Level::ERROR);
        let room = if target == module_path!() {
            // The number of dropped lines is reported when the queue may still be full.
            ERROR_BYTES + REPORT_BYTES
        } else if is_error && ![PLUGIN_LINES, CALL_ERRORS].contains(&target) {
            ERROR_BYTES
        } else {
            0
        };
        LineWriter { queue: &self.0, room }
    }
}

/// Takes one line, which the formatter writes as a whole.
pub(super) struct LineWriter<'a> {
    queue: &'a LineQueue,
    /// Bytes beyond those of the queue that the line may use.
    room: usize,
}

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.push(line, self.room);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// An output whose reader takes each piece when the test says so.
    struct Output {
        reader: mpsc::Receiver<()>,
        taken: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.reader.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.taken.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue(bytes: usize) -> (Arc<LineQueue>, mpsc::Sender<()>, mpsc::Receiver<Vec<u8>>) {
        let (read, reader) = mpsc::channel();
        let (taken, written) = mpsc::channel();
        let queue = Arc::new(LineQueue::new(bytes));
        LineQueue::start(&queue, Output { reader, taken }).unwrap();
        (queue, read, written)
    }

    #[test]
    fn lines_beyond_the_bytes_of_the_queue_are_dropped_whole_and_counted() {
        let (queue, read, written) = queue(10);
        queue.push(b"first\n", 0);
        while !queue.lock().waiting.is_empty() {
            std::thread::yield_now();
        }
        for line in [&b"1234567\n"[..], b"abc\n", b"\n"] {
            queue.push(line, 0);
        }
        assert_eq!(queue.dropped(), 1);
        queue.flush(Duration::ZERO);
        read.send(()).unwrap();
        read.send(()).unwrap();
        assert_eq!([written.recv().unwrap(), written.recv().unwrap()], [&b"first\n"[..], b"1234567\n\n"]);
        queue.flush(Duration::from_secs(60));
        let state = queue.lock();
        assert_eq!(state.ended, state.added);
    }

    #[test]
    fn errors_of_the_host_have_room_when_the_queue_is_full() {
        let (queue, read, written) = queue(10);
        queue.push(b"first\n", 0);
        while !queue.lock().waiting.is_empty() {
            std::thread::yield_now();
        }
        let queued = QueueWriter(Arc::clone(&queue));
        let subscriber = tracing_subscriber::fmt().with_writer(queued).without_time().with_ansi(false).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("does not fit");
            tracing::error!(target: PLUGIN_LINES, "does not fit either");
            tracing::error!(target: CALL_ERRORS, "does not fit either");
            tracing::error!(target: "wharf", "the disk is full");
        });
        assert_eq!(queue.dropped(), 3);
        queue.push(&b"x".repeat(ERROR_BYTES), ERROR_BYTES);
        assert_eq!(queue.dropped(), 4, "the room for errors is bounded too");
        read.send(()).unwrap();
        read.send(()).unwrap();
        let written = [written.recv().unwrap(), written.recv().unwrap()].map(|lines| String::from_utf8(lines).unwrap());
        assert_eq!(written, ["first\n", "ERROR wharf: the disk is full\n"]);
    }

    #[test]
    fn a_full_queue_has_room_for_the_number_of_dropped_lines() {
        let (read, reader) = mpsc::channel();
        let (taken, written) = mpsc::channel();
        let queue = Arc::new(LineQueue::new(10));
        let writing = Arc::clone(&queue);
        std::thread::spawn(move || {
            let queued = QueueWriter(Arc::clone(&writing));
            let subscriber = tracing_subscriber::fmt().with_writer(queued).without_time().with_ansi(false).finish();
            tracing::subscriber::with_default(subscriber, || writing.run(Output { reader, taken }));
        });
        queue.push(b"first\n", 0);
        while !queue.lock().waiting.is_empty() {
            std::thread::yield_now();
        }
        for line in [b"123456789\n", b"does not \n", b"fit in it\n"] {
            queue.push(line, 0);
        }
        read.send(()).unwrap();
        read.send(()).unwrap();
        let written = [written.recv().unwrap(), written.recv().unwrap()].map(|lines| String::from_utf8(lines).unwrap());
        assert_eq!(written[0], "first\n");
        assert!(written[1].starts_with("123456789\n") && written[1].contains("lines=2"), "{written:?}");
        assert_eq!(queue.dropped(), 2);
    }

    #[test]
    fn a_flush_does_not_wait_for_lines_that_come_later() {
        let (queue, read, written) = queue(100);
        queue.push(b"first\n", 0);
        while !queue.lock().waiting.is_empty() {
            std::thread::yield_now();
        }
        let flushing = Arc::clone(&queue);
        let flush = std::thread::spawn(move || flushing.flush(Duration::from_secs(600)));
        while queue.lock().flushing == 0 {
            std::thread::yield_now();
        }
        queue.push(b"later\n", 0);
        read.send(()).unwrap();
        flush.join().unwrap();
        assert_eq!(written.try_iter().collect::<Vec<_>>(), [b"first\n"]);
    }

    #[test]
    fn a_flush_writes_the_lines_that_gather() {
        let (queue, read, written) = queue(GATHERED_BYTES * 2);
        let write = || read.send(()).unwrap();
        write();
        queue.push(b"first\n", 0);
        assert_eq!(written.recv().unwrap(), b"first\n");
        for _ in 0..100 {
            queue.push(b"x\n", 0);
        }
        // As many writes as there could be at most.
        (0..100).for_each(|_| write());
        queue.flush(Duration::from_secs(60));
        assert_eq!(queue.lock().flushing, 0);
        let rest: Vec<u8> = written.try_iter().flatten().collect();
        assert_eq!(rest, b"x\n".repeat(100));
        queue.push(&b"y".repeat(GATHERED_BYTES), 0);
        assert_eq!(written.recv().unwrap().len(), GATHERED_BYTES);
    }

    #[test]
    fn lines_for_a_reader_that_is_gone_count_as_dropped() {
        let (queue, read, _written) = queue(100);
        drop(read);
        queue.push(b"a\n", 0);
        queue.flush(Duration::from_secs(60));
        while queue.dropped() < 1 {
            std::thread::yield_now();
        }
        queue.push(b"b\n", 0);
        queue.flush(Duration::from_secs(60));
        while queue.dropped() < 2 {
            std::thread::yield_now();
        }
    }
}
