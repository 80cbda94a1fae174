//! The queue between the threads that log and the output of the log. It is bounded in bytes, because one line of a
//! plugin may have hundreds of kilobytes. (`tracing-appender` bounds the number of lines.) Owns the number of lines that
//! were dropped. Only its own thread ever waits for the output.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

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
    lines: u64,
    /// Whether the thread is writing lines that it took from `waiting`.
    is_writing: bool,
}

impl LineQueue {
    /// Creates a queue for at most `bytes`.
    pub(super) fn new(bytes: usize) -> Self {
        let (filled, written) = (Condvar::new(), Condvar::new());
        Self { bytes, state: Mutex::default(), filled, written, dropped: AtomicU64::new(0) }
    }

    /// Starts the thread that writes the lines.
    pub(super) fn start(queue: &Arc<Self>, output: impl Write + Send + 'static) -> io::Result<()> {
        let queue = Arc::clone(queue);
        std::thread::Builder::new().name("wharf-log".to_owned()).spawn(move || queue.run(output)).map(drop)
    }

    /// Adds a line, or counts it as dropped if it does not fit. Never waits for the output.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.waiting.len().saturating_add(line.len()) > self.bytes {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.waiting.extend_from_slice(line);
        state.lines += 1;
        self.filled.notify_one();
    }

    /// Returns the number of dropped lines.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all lines are written, at most for `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let is_busy = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        let _ = self.written.wait_timeout_while(self.lock(), limit, is_busy);
    }

    fn run(&self, mut output: impl Write) {
        let mut batch = Vec::new();
        let mut reported = 0;
        loop {
            let lines = self.take(&mut batch);
            let written = output.write_all(&batch).and_then(|()| output.flush());
            batch.clear();
            self.lock().is_writing = false;
            self.written.notify_all();
            let dropped = self.dropped();
            match written {
                // The reader has closed its end. The report would be lost like these lines.
                Err(_) => {
                    self.dropped.fetch_add(lines, Ordering::Relaxed);
                }
                Ok(()) if dropped > reported => {
                    let lines = dropped - reported;
                    reported = dropped;
                    tracing::warn!(lines, "log lines were dropped because standard error did not take them in time");
                }
                Ok(()) => {}
            }
        }
    }

    /// Waits for lines and moves them to `batch`, which is empty. Returns their number.
    fn take(&self, batch: &mut Vec<u8>) -> u64 {
        let waited = self.filled.wait_while(self.lock(), |state| state.waiting.is_empty());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.waiting, batch);
        state.is_writing = true;
        std::mem::take(&mut state.lines)
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
        LineWriter(&self.0)
    }
}

/// Takes one line, which the formatter writes as a whole.
pub(super) struct LineWriter<'a>(&'a LineQueue);

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
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
        queue.push(b"first\n");
        while !queue.lock().is_writing {
            std::thread::yield_now();
        }
        for line in [&b"1234567\n"[..], b"abc\n", b"\n"] {
            queue.push(line);
        }
        assert_eq!(queue.dropped(), 1);
        queue.flush(Duration::ZERO);
        read.send(()).unwrap();
        read.send(()).unwrap();
        assert_eq!([written.recv().unwrap(), written.recv().unwrap()], [&b"first\n"[..], b"1234567\n\n"]);
        queue.flush(Duration::from_secs(60));
        assert!(!queue.lock().is_writing);
    }

    #[test]
    fn lines_for_a_reader_that_is_gone_count_as_dropped() {
        let (queue, read, _written) = queue(100);
        drop(read);
        queue.push(b"a\n");
        queue.flush(Duration::from_secs(60));
        while queue.dropped() < 1 {
            std::thread::yield_now();
        }
        queue.push(b"b\n");
        queue.flush(Duration::from_secs(60));
        while queue.dropped() < 2 {
            std::thread::yield_now();
        }
    }
}
