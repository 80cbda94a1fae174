//! The output of the log after a failure: lines stay whole when a disk was full, and none is lost because a pipe would block.

use std::io::{self, Write};
use std::time::Duration;

/// The pause before a write is tried again.
const PAUSE: Duration = Duration::from_millis(5);

/// See the module.
pub(super) struct LineOutput<W> {
    inner: W,
    /// Whether the last write ended within a line.
    is_in_line: bool,
}

impl<W: Write> LineOutput<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, is_in_line: false }
    }

    /// Writes whole lines. Ends the line first that an earlier write could not finish, because it would spoil the next one.
    pub(super) fn write_lines(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.is_in_line {
            self.write_all(b"\n")?;
        }
        self.write_all(lines)?;
        self.flush()
    }
}

impl<W: Write> Write for LineOutput<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.inner.write(bytes) {
                // Another process has made the pipe or the terminal non-blocking, which they share.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
                Err(error) => return Err(error),
                Ok(taken) => {
                    if let Some(last) = bytes.get(..taken).and_then(<[u8]>::last) {
                        self.is_in_line = *last != b'\n';
                    }
                    return Ok(taken);
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It takes as many bytes as there is space, and none while its reader is busy.
    struct Disk {
        busy: u32,
        space: usize,
        written: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.busy > 0 {
                self.busy -= 1;
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let taken = bytes.len().min(self.space);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.space -= taken;
            self.written.extend(bytes.iter().take(taken));
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_a_full_disk_cuts_off_does_not_spoil_the_next_one() {
        let disk = Disk { busy: 0, space: 9, written: Vec::new() };
        let mut output = LineOutput::new(disk);
        assert!(output.write_lines(b"first\nsecond\n").is_err());
        assert!(output.write_lines(b"third\n").is_err());
        output.inner.space = 100;
        output.write_lines(b"fourth\n").unwrap();
        output.write_lines(b"fifth\n").unwrap();
        assert_eq!(output.inner.written, b"first\nsec\nfourth\nfifth\n");
    }

    #[test]
    fn an_output_that_would_block_is_tried_again() {
        let disk = Disk { busy: 2, space: 100, written: Vec::new() };
        let mut output = LineOutput::new(disk);
        output.write_lines(b"first\n").unwrap();
        assert_eq!(output.inner.written, b"first\n");
    }
}
