//! What a child writes to its stdout and stderr: read by a thread, so that the child never waits for anybody to take it; the
//! last lines are kept, and all of it may go into a file.

use super::super::thread::BlockedSignals;
use crate::sync::{Condvar, Mutex};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MOST_LINES: usize = 64;
const MOST_BYTES: usize = 16 << 10;
/// What is longer is cut.
const LINE_BYTES: usize = 1 << 10;
const LOG_BYTES: u64 = 16 << 20;
const STACK_BYTES: usize = 128 << 10;

/// The output of one child.
pub(crate) struct Output(Arc<Shared>);

#[derive(Default)]
struct Shared {
    tail: Mutex<Tail>,
    ended: Condvar,
}

#[derive(Default)]
struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
    over: bool,
}

impl Output {
    /// Reads the pipe until nobody can write to it any more.
    pub(super) fn read(mut pipe: PipeReader, mut log: Option<Log>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let output = Self(shared.clone());
        let body = move || {
            let mut buffer = [0; 16 << 10];
            let mut line = Line::default();
            loop {
                match pipe.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => line.push(&buffer[..read], |line| shared.add(line, &mut log)),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            // Often the most important one: what an abort said at last.
            line.end(&mut |line| shared.add(line, &mut log));
            shared.tail.lock().over = true;
            shared.ended.notify_all();
        };
        let _blocked = BlockedSignals::new();
        std::thread::Builder::new().name("llamapen-output".into()).stack_size(STACK_BYTES).spawn(body)?;
        Ok(output)
    }

    /// The last lines, without control characters. Of a child that has ended: all are there, unless somebody else holds its
    /// stdout open for longer than `limit`.
    pub(crate) fn last_lines(&self, limit: Duration) -> Vec<String> {
        let deadline = Instant::now() + limit;
        let mut tail = self.0.tail.lock();
        while !tail.over && !self.0.ended.wait_until(&mut tail, deadline) {}
        tail.lines.iter().cloned().collect()
    }
}

impl Shared {
    fn add(&self, line: String, log: &mut Option<Log>) {
        if log.as_mut().is_some_and(|log| !log.write(&line)) {
            *log = None;
        }
        let mut tail = self.tail.lock();
        tail.bytes += line.len();
        tail.lines.push_back(line);
        while tail.lines.len() > MOST_LINES || tail.bytes > MOST_BYTES {
            tail.bytes -= tail.lines.pop_front().map_or(0, |line| line.len());
        }
    }
}

/// Makes lines of what comes in pieces.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    cut: bool,
}

impl Line {
    fn push(&mut self, bytes: &[u8], mut each: impl FnMut(String)) {
        for &byte in bytes {
            match byte {
                b'\n' | b'\r' => self.end(&mut each),
                _ if self.bytes.len() < LINE_BYTES => self.bytes.push(byte),
                _ => self.cut = true,
            }
        }
    }

    fn end(&mut self, each: &mut impl FnMut(String)) {
        let text = String::from_utf8_lossy(&self.bytes);
        let mut text: String =
            text.chars().map(|c| if c == '\t' { ' ' } else { c }).filter(|c| !c.is_control()).collect();
        if std::mem::take(&mut self.cut) {
            text.push('…');
        }
        self.bytes.clear();
        if !text.is_empty() {
            each(text);
        }
    }
}

/// A file that output is added to, up to a size.
pub(super) struct Log {
    file: File,
    left: u64,
}

impl Log {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::with_room(path, LOG_BYTES)
    }

    fn with_room(path: &Path, room: u64) -> io::Result<Self> {
        let file = File::options().append(true).create(true).open(path)?;
        let found = file.metadata()?;
        // Writing to anything else might wait for a reader, and the child with it.
        if !found.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
        }
        Ok(Self { file, left: room.saturating_sub(found.len()) })
    }

    /// Whether another line may come.
    fn write(&mut self, line: &str) -> bool {
        let bytes = line.len() as u64 + 1;
        if bytes >= self.left {
            if self.left > 0 {
                let _ = self.file.write_all(b"llamapen: this log is full, and nothing more is added to it\n");
            }
            return false;
        }
        self.left -= bytes;
        self.file.write_all(format!("{line}\n").as_bytes()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn output_of(written: &[u8], log: Option<Log>) -> Vec<String> {
        let (reader, mut writer) = io::pipe().unwrap();
        let output = Output::read(reader, log).unwrap();
        writer.write_all(written).unwrap();
        drop(writer);
        output.last_lines(SOON)
    }

    #[test]
    fn lines_are_whole_however_they_come_and_have_no_control_characters() {
        let text = "one\ttab\r\n\n\x1b[31mred\x07\nhalf é".as_bytes();
        let (mut line, mut seen) = (Line::default(), vec![]);
        for byte in text {
            line.push(std::slice::from_ref(byte), |line| seen.push(line));
        }
        line.end(&mut |line| seen.push(line));
        assert_eq!(seen, ["one tab", "[31mred", "half é"]);
        assert_eq!(output_of(text, None), seen);
        assert_eq!(output_of(b"a\xff\xfeb", None), ["a\u{fffd}\u{fffd}b"]);
    }

    #[test]
    fn a_flood_is_taken_and_its_end_is_kept() {
        let mut flood: Vec<u8> = (0..200_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let lines = output_of(&flood, None);
        assert_eq!((lines.len(), lines[0].as_str(), lines[63].as_str()), (64, "line 199936", "line 199999"));
        flood = vec![b'x'; 1 << 20];
        flood.extend(b"\nend");
        let lines = output_of(&flood, None);
        assert_eq!((lines.len(), lines[0].len(), lines[1].as_str()), (2, LINE_BYTES + '…'.len_utf8(), "end"));
        flood = format!("{}\n", "y".repeat(1000)).repeat(100).into_bytes();
        let bytes: usize = output_of(&flood, None).iter().map(String::len).sum();
        assert_eq!(bytes, 16_000);
    }

    #[test]
    fn the_last_lines_are_there_while_the_child_still_writes() {
        let (reader, mut writer) = io::pipe().unwrap();
        let output = Output::read(reader, None).unwrap();
        writer.write_all(b"first\nsec").unwrap();
        let deadline = Instant::now() + SOON;
        while output.last_lines(Duration::from_millis(1)).is_empty() && Instant::now() < deadline {}
        assert_eq!(output.last_lines(Duration::from_millis(1)), ["first"]);
        writer.write_all(b"ond").unwrap();
        drop(writer);
        assert_eq!(output.last_lines(SOON), ["first", "second"]);
    }

    #[test]
    fn a_log_is_added_to_until_it_is_full_and_says_so_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker.log");
        for _ in 0..3 {
            let log = Log::with_room(&path, 30).unwrap();
            assert_eq!(output_of(b"0123456789\nabc\n0123456789\n", Some(log)).len(), 3);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let full = "llamapen: this log is full, and nothing more is added to it\n";
        assert_eq!(text, format!("0123456789\nabc\n0123456789\n{full}"));
        assert!(Log::open(folder.path()).is_err());
        assert!(Log::open(Path::new("/dev/null")).is_err());
    }
}
