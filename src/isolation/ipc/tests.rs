//! Both ends, and what a damaged or hostile one can do to the other.

use super::blob::Bytes;
use super::decoder::Decoder;
use super::frame::{Frame, Header, INLINE, MAX_FRAME, VERSION};
use super::frame::{MAX_BLOB, MAX_BODY};
use super::fuzz::{LARGE_BLOB, Sample, explore, feed, large, scripts};
use super::sealed::{SealedFile, create};
use super::*;
use proptest::prelude::*;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, sendmsg};
use std::fs::File;
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LIMIT: u64 = 1 << 20;

/// Nobody waits for ever: a test that is broken fails.
fn ends() -> (UnixStream, Reader) {
    let (ours, theirs) = pair().unwrap();
    let theirs = UnixStream::from(theirs);
    theirs.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let ours = UnixStream::from(ours);
    ours.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    (ours, Reader::new(OwnedFd::from(theirs)))
}

fn run(id: u64) -> Sample {
    Sample::Run { id, text: None, tokens: vec![1, 2, 3], ratio: 0.25 }
}

fn frame(message: &Sample, blob: Option<&Blob>) -> Frame {
    Frame::new(message, blob).unwrap()
}

fn blob(len: usize) -> Blob {
    Blob::new((0..len).map(|i| (i % 251) as u8).collect()).unwrap()
}

/// Sends bytes and descriptors as they are.
fn send_raw(socket: impl AsFd, bytes: &[u8], files: &[&File]) {
    let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(100))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    }
    let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}

/// How many descriptors of this process are of this file: other tests open others meanwhile.
fn copies(file: &File) -> usize {
    let identity = |stat: std::fs::Metadata| (stat.dev(), stat.ino());
    let wanted = identity(file.metadata().unwrap());
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    open.filter(|entry| std::fs::metadata(entry.path()).is_ok_and(|stat| identity(stat) == wanted)).count()
}

fn file_of(blob: &Blob) -> &File {
    let Bytes::Sealed(file) = &blob.0 else { panic!("it is no file") };
    file.file()
}

#[test]
fn messages_and_blobs_of_every_size_arrive_in_order() {
    let sizes = [None, Some(0), Some(1), Some(INLINE), Some(INLINE + 1), Some(3 << 20)];
    let messages =
        [Sample::Ping, run(1), Sample::Text("y".repeat(INLINE - 100)), large(), Sample::Text("z".repeat(9 << 20))];
    let (ours, mut reader) = ends();
    let sender = std::thread::spawn({
        let messages = messages.clone();
        move || {
            let outlet = Outlet::new(OwnedFd::from(ours));
            for message in &messages {
                for size in sizes {
                    outlet.send(message, size.map(blob).as_ref()).unwrap();
                }
            }
            outlet.flush().unwrap();
        }
    });
    for message in &messages {
        for size in sizes {
            let (got, bytes) = reader.next::<Sample>().unwrap().unwrap();
            assert!(got == *message);
            assert!(bytes.map(|blob| blob.read().unwrap()) == size.map(|size| blob(size).read().unwrap()), "{size:?}");
        }
    }
    assert!(reader.next::<Sample>().unwrap().is_none() && reader.next::<Sample>().unwrap().is_none());
    sender.join().unwrap();
}

#[test]
fn messages_of_several_threads_do_not_mix() {
    let (ours, mut reader) = ends();
    let outlet = Outlet::new(OwnedFd::from(ours));
    std::thread::scope(|scope| {
        let outlet = &outlet;
        let senders: Vec<_> = (0..4)
            .map(|thread| {
                scope.spawn(move || {
                    for i in 0..500 {
                        let size = if i % 50 == 0 { LARGE_BLOB } else { 10 };
                        outlet.send(&(thread, i), Some(&blob(size))).unwrap();
                    }
                    outlet.flush().unwrap();
                })
            })
            .collect();
        let mut next = [0; 4];
        for _ in 0..2000 {
            let ((thread, i), _) = reader.next::<(usize, usize)>().unwrap().unwrap();
            assert_eq!(next[thread], i);
            next[thread] += 1;
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
}

#[test]
fn both_directions_share_a_socket() {
    let (ours, theirs) = pair().unwrap();
    let (ours, theirs) = (Arc::new(ours), Arc::new(theirs));
    let (outbox, mut host) = (Outbox::new(ours.clone(), LIMIT), Reader::new(ours));
    let (outlet, mut child) = (Outlet::new(theirs.clone()), Reader::new(theirs));
    for i in 0..10u64 {
        outbox.send(&i, None).unwrap();
        assert_eq!(child.next::<u64>().unwrap().unwrap().0, i);
        outlet.send(&(i + 1), None).unwrap();
        outlet.flush().unwrap();
        assert_eq!(host.next::<u64>().unwrap().unwrap().0, i + 1);
    }
    drop((outlet, child));
    assert!(host.next::<u64>().unwrap().is_none());
}

#[test]
fn a_child_gathers_until_it_flushes_or_much_is_there() {
    let (ours, theirs) = pair().unwrap();
    let (outlet, theirs) = (Outlet::new(ours), UnixStream::from(theirs));
    let waiting = || rustix::io::ioctl_fionread(&theirs).unwrap();
    outlet.send(&run(1), None).unwrap();
    assert_eq!(waiting(), 0);
    outlet.flush().unwrap();
    let one = waiting();
    assert!(one > 0);
    let mut sent = 0;
    while waiting() == one && sent < 1000 {
        outlet.send(&run(1), None).unwrap();
        sent += 1;
    }
    assert!((100..1000).contains(&sent), "{sent} messages of {one} bytes");
}

#[test]
fn frames_arrive_whole_wherever_the_stream_is_cut() {
    let parts = [frame(&run(1), None), frame(&run(2), Some(&blob(9))), frame(&large(), Some(&blob(LARGE_BLOB)))];
    let files =
        |frame: &Frame| frame.files.iter().map(|file| file.try_clone().unwrap().into()).collect::<Vec<OwnedFd>>();
    for cut in 0..=parts.iter().map(|part| part.bytes.len()).max().unwrap() {
        let (mut decoder, mut got) = (Decoder::new(), Vec::new());
        for part in &parts {
            let (now, later) = part.bytes.split_at(cut.min(part.bytes.len()));
            let mut files = files(part);
            for bytes in [now, later].into_iter().filter(|bytes| !bytes.is_empty()) {
                let files = std::mem::take(&mut files);
                feed(&mut decoder, bytes, files, |message, blob| got.push((message, blob.map(|blob| blob.len()))))
                    .unwrap();
            }
        }
        assert!(got == [(run(1), None), (run(2), Some(9)), (large(), Some(LARGE_BLOB as u64))], "{cut}");
        decoder.finish().unwrap();
    }
}

#[test]
fn an_end_within_a_frame_is_told_apart() {
    let whole = frame(&run(1), Some(&blob(5))).bytes;
    for cut in 0..whole.len() {
        let (mut ours, mut reader) = ends();
        ours.write_all(&whole).unwrap();
        ours.write_all(&whole[..cut]).unwrap();
        drop(ours);
        assert!(reader.next::<Sample>().unwrap().is_some());
        match cut {
            0 => assert!(reader.next::<Sample>().unwrap().is_none()),
            bytes => {
                for _ in 0..2 {
                    assert_eq!(reader.next::<Sample>().unwrap_err(), IpcError::HalfFrame { bytes });
                }
            }
        }
    }
}

#[test]
fn garbage_is_an_error_at_its_first_byte() {
    for garbage in [&b"H"[..], b"LPI\0", b"LPIP\x01\x02", &[0xff; 100_000]] {
        let (mut ours, mut reader) = ends();
        ours.write_all(&frame(&run(1), None).bytes).unwrap();
        ours.write_all(garbage).unwrap();
        assert_eq!(reader.next::<Sample>().unwrap().unwrap().0, run(1));
        // The sender is there yet: this does not wait for more.
        let error = reader.next::<Sample>().unwrap_err();
        assert!(
            matches!(error, IpcError::BadHeader(_) | IpcError::Version { theirs: 0x201, ours: VERSION }),
            "{error}"
        );
        assert_eq!(reader.next::<Sample>().unwrap_err(), error);
    }
}

#[test]
fn a_message_of_another_type_or_with_a_tail_is_an_error() {
    let text = |message: &[u8]| {
        let (mut ours, mut reader) = ends();
        ours.write_all(&Header { body: message.len() as u32, blob: None }.encode()).unwrap();
        ours.write_all(message).unwrap();
        match reader.next::<Sample>().unwrap_err() {
            IpcError::BadBody(text) => text,
            other => panic!("{other}"),
        }
    };
    assert!(text(&rmp_serde::to_vec_named("Pong").unwrap()).contains("unknown variant `Pong`"));
    assert_eq!(text(&[rmp_serde::to_vec_named(&Sample::Ping).unwrap(), vec![0; 3]].concat()), "3 bytes follow its end");
    assert!(text(&[]).contains("reading marker"));
    // Arrays within arrays, without an end.
    let deep: Vec<u8> =
        b"\x81\xa6Nested\x92\x91".iter().copied().chain(b"\x81\xa6Nested\x92\x91".repeat(5000)).collect();
    for deep in [&deep[..], &deep[..150 * 9]] {
        assert!(text(deep).contains("depth limit"));
    }
    // Four billion numbers, of which one comes.
    assert!(text(b"\x81\xa3Run\x82\xa2id\x01\xa6tokens\xdd\xff\xff\xff\xff\x01").contains("reading marker"));
}

#[test]
fn a_header_that_announces_much_is_refused_at_once() {
    let (mut ours, mut reader) = ends();
    ours.write_all(&Header { body: MAX_BODY as u32, blob: Some(MAX_BLOB) }.encode()).unwrap();
    assert_eq!(reader.next::<Sample>().unwrap_err(), IpcError::Descriptor("2 were announced, 0 came".into()));
    let (mut ours, mut reader) = ends();
    ours.write_all(&Header { body: u32::MAX, blob: None }.encode()).unwrap();
    assert!(matches!(reader.next::<Sample>(), Err(IpcError::TooLarge { .. })));
}

/// Each is a way to send descriptors wrongly; all are noticed, and none leaves one open.
#[test]
fn wrong_descriptors_are_errors_and_stay_open_nowhere() {
    let sealed = |len: usize| SealedFile::new(&vec![7; len]).unwrap().file().try_clone().unwrap();
    let (good, short) = (sealed(LARGE_BLOB), sealed(LARGE_BLOB - 1));
    let unsealed = File::from(create().unwrap());
    unsealed.set_len(LARGE_BLOB as u64).unwrap();
    let open = || [&good, &short, &unsealed].map(copies);
    assert_eq!(open(), [1; 3]);
    let large = frame(&run(1), Some(&blob(LARGE_BLOB))).bytes;
    let small = frame(&run(1), Some(&blob(3))).bytes;
    let two = frame(&super::fuzz::large(), Some(&blob(LARGE_BLOB)));
    let (two, message) = (two.bytes, two.files[0].try_clone().unwrap());
    let many = vec![&good; 100];
    /// What is sent, the files with it, what follows with a file of its own, what is said.
    type Case<'a> = (&'a [u8], &'a [&'a File], &'a [u8], &'a str);
    let cases: [Case<'_>; 11] = [
        (&large, &[], b"", "1 were announced, 0 came"),
        (&large, &[&good, &good], b"", "1 were announced, 2 came"),
        (&large, &[&good, &good, &good], b"", "1 were announced"),
        (&large, &many, b"", "too many"),
        (&large, &[&short], b"", "it has 65536 bytes, 65537 were announced"),
        (&large, &[&unsealed], b"", "not sealed"),
        // Of two files, the second is wrong.
        (&two, &[&message, &short], b"", "it has 65536 bytes"),
        (&small, &[&good], b"", "no frame announced it"),
        (&small[..10], &[&good], &small[10..], "no frame announced it"),
        // Before the last byte of its frame is there.
        (&small[..21], &[&good], b"", "no frame announced it"),
        (&large, &[&good], &small, "no frame announced it"),
    ];
    for (bytes, files, more, expected) in cases {
        let (ours, mut reader) = ends();
        send_raw(&ours, bytes, files);
        if !more.is_empty() {
            send_raw(&ours, more, &[&good]);
        }
        let error = loop {
            match reader.next::<Sample>() {
                Ok(frame) => assert!(frame.is_some()),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains("a file that was sent along") && error.contains(expected), "{error}");
        // The reader is there yet.
        assert_eq!(open(), [1; 3], "{error}");
    }
    // What is under way when both ends go.
    let (ours, mut reader) = ends();
    send_raw(&ours, &[&small, &large[..25]].concat(), &[&good]);
    assert!(reader.next::<Sample>().unwrap().is_some());
    drop((ours, reader));
    assert_eq!(open(), [1; 3]);
}

#[test]
fn descriptors_belong_to_the_bytes_that_they_came_with() {
    let large = frame(&run(1), Some(&blob(LARGE_BLOB)));
    let file = || vec![large.files[0].try_clone().unwrap().into()];
    let mut decoder = Decoder::new();
    feed(&mut decoder, &large.bytes[..1], vec![], |_, _| ()).unwrap();
    let late = feed(&mut decoder, &large.bytes[1..], file(), |_, _| ());
    assert_eq!(late, Err(IpcError::Descriptor("1 were announced, 0 came".into())));
    // With no byte at all.
    let mut decoder = Decoder::new();
    decoder.arrived(0, file());
    assert_eq!(decoder.finish(), Err(IpcError::Descriptor("no frame announced it".into())));
}

#[test]
fn files_that_are_received_do_not_outlive_an_exec() {
    let (ours, mut reader) = ends();
    let outlet = Outlet::new(OwnedFd::from(ours));
    outlet.send(&(), Some(&blob(LARGE_BLOB))).unwrap();
    let (_, received) = reader.next::<()>().unwrap().unwrap();
    let received = received.unwrap();
    assert!(rustix::io::fcntl_getfd(file_of(&received)).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    assert_eq!(received.read().unwrap(), blob(LARGE_BLOB).read().unwrap());
}

/// Sends until the backlog is full: how many, and the error.
fn fill(outbox: &Outbox, text: &str, payload: &Blob) -> (u64, IpcError) {
    let started = Instant::now();
    for sent in 0.. {
        if let Err(error) = outbox.send(&(sent, text), Some(payload)) {
            return (sent, error);
        }
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    unreachable!("it is full before")
}

#[test]
fn a_peer_that_does_not_read_fills_the_backlog_and_blocks_nobody() {
    const LIMIT: u64 = 8 << 20;
    // The last one: files, and so many bytes that only a part of a frame fits into the socket.
    for (text, size) in [(0, 100), (0, 10_000), (0, LARGE_BLOB), (60_000, LARGE_BLOB)] {
        let (ours, mut reader) = ends();
        let outbox = Outbox::new(OwnedFd::from(ours), LIMIT);
        let (text, payload) = ("t".repeat(text), blob(size));
        let mut first = 0;
        for _ in 0..2 {
            let (sent, error) = fill(&outbox, &text, &payload);
            let IpcError::Full { waiting, frames, limit: LIMIT } = error else { panic!("{error}") };
            match size {
                LARGE_BLOB => assert!((63..=65).contains(&frames), "{error}"),
                _ => assert!((LIMIT * 9 / 10..=LIMIT).contains(&waiting), "{error}"),
            }
            assert!(!outbox.flush().unwrap());
            // Nothing is lost, and when the other side has read, there is as much room as before.
            for i in 0..sent {
                outbox.flush().unwrap();
                let ((number, got), bytes) = reader.next::<(u64, String)>().unwrap().unwrap();
                assert!(number == i && got == text && bytes.unwrap().len() == size as u64);
            }
            assert!(outbox.flush().unwrap() && sent > first / 2, "{sent}, and {first} before");
            first = sent;
        }
        assert!(size < LARGE_BLOB || copies(file_of(&payload)) == 1);
    }
}

#[test]
fn one_frame_larger_than_the_limit_may_wait_alone() {
    let (ours, mut reader) = ends();
    let outbox = Outbox::new(OwnedFd::from(ours), 0);
    while outbox.flush().unwrap() {
        outbox.send(&run(1), Some(&blob(INLINE))).unwrap();
    }
    assert!(matches!(outbox.send(&run(2), None), Err(IpcError::Full { .. })));
    // A send tries again by itself, before it gives up.
    while outbox.send(&run(2), None).is_err() {
        reader.next::<Sample>().unwrap().unwrap();
    }
}

#[test]
fn the_end_of_the_other_side_is_told_to_who_sends_and_to_who_receives() {
    let (ours, theirs) = pair().unwrap();
    let ours = Arc::new(ours);
    let (outbox, mut reader) = (Outbox::new(ours.clone(), LIMIT), Reader::new(ours));
    // Left unread there: for the system this end is an error (ECONNRESET).
    outbox.send(&run(1), None).unwrap();
    send_raw(&theirs, &frame(&run(5), None).bytes, &[]);
    drop(theirs);
    assert_eq!(reader.next::<Sample>().unwrap().unwrap().0, run(5));
    assert!(reader.next::<Sample>().unwrap().is_none());
    for _ in 0..3 {
        assert_eq!(outbox.send(&run(2), Some(&blob(LARGE_BLOB))).unwrap_err(), IpcError::Closed);
        assert_eq!(outbox.flush().unwrap_err(), IpcError::Closed);
    }
    let (ours, theirs) = pair().unwrap();
    let outlet = Outlet::new(ours);
    outlet.send(&run(1), None).unwrap();
    rustix::net::shutdown(&theirs, Shutdown::Both).unwrap();
    for _ in 0..3 {
        assert_eq!(outlet.flush().unwrap_err(), IpcError::Closed);
        assert_eq!(outlet.send(&run(1), None).unwrap_err(), IpcError::Closed);
    }
}

#[test]
fn a_sender_may_be_the_first_to_hear_of_the_end() {
    let (ours, theirs) = pair().unwrap();
    let outbox = Outbox::new(ours, LIMIT);
    outbox.send(&run(1), None).unwrap();
    drop(theirs);
    assert_eq!(outbox.send(&run(2), None).unwrap_err(), IpcError::Closed);
}

/// Rust programs ignore the signal; of others it would be the end.
#[test]
fn sending_to_nobody_raises_no_signal() {
    let pending = || {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigPnd:\t")).unwrap().to_owned();
        u64::from_str_radix(&mask, 16).unwrap() & (1 << (libc::SIGPIPE - 1))
    };
    // While it is blocked, even an ignored signal is kept. The thread ends with the test, and its mask.
    // SAFETY: plain calls on a local signal set; sigset_t is plain data for which zero is a valid value.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
    }
    let (ours, theirs) = pair().unwrap();
    drop(theirs);
    assert_eq!(Outbox::new(ours, LIMIT).send(&run(1), None).unwrap_err(), IpcError::Closed);
    assert_eq!(pending(), 0);
}

#[test]
fn a_sender_that_waits_ends_with_the_other_side() {
    let (ours, theirs) = pair().unwrap();
    let outlet = Arc::new(Outlet::new(ours));
    let sender = std::thread::spawn({
        let outlet = outlet.clone();
        move || (0..1000).find_map(|_| outlet.send(&run(1), Some(&blob(10_000))).err())
    });
    std::thread::sleep(Duration::from_millis(50));
    assert!(!sender.is_finished());
    drop(theirs);
    assert_eq!(sender.join().unwrap(), Some(IpcError::Closed));
}

#[test]
fn sound_scripts_are_read_to_their_end() {
    let frames: Vec<_> = scripts().iter().map(|script| explore(script)).collect();
    assert_eq!(frames, [(3, Ok(())), (1, Ok(())), (4, Ok(())), (5, Ok(()))]);
}

/// As the fuzz target does, with seeds of its own, in each run the same.
#[test]
fn mutations_of_sound_streams_break_nothing() {
    let (seeds, mut random) = (scripts(), fastrand::Rng::with_seed(7));
    let mut ends = std::collections::BTreeMap::new();
    for _ in 0..50_000 {
        let mut script = seeds[random.usize(..seeds.len())].clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..script.len());
            match random.u8(..6) {
                0 => script[at] ^= 1 << random.u8(..8),
                1 => script[at] = random.u8(..),
                2 => script.truncate(at.max(1)),
                3 => script[at] = [0, 1, 0x7f, 0x80, 0xc1, 0xdd, 0xff][random.usize(..7)],
                4 => drop(script.splice(at..(at + random.usize(..9)).min(script.len()), [])),
                _ => {
                    let other = &seeds[random.usize(..seeds.len())];
                    let from = random.usize(..other.len());
                    let until = other.len().min(from + random.usize(..80));
                    script.splice(at..at, other[from..until].iter().copied());
                }
            }
            if script.is_empty() {
                break;
            }
        }
        let (_, end) = explore(&script);
        let kind = match end {
            Ok(()) => "ok".to_owned(),
            Err(error) => format!("{error:?}").split([' ', '(']).next().unwrap_or_default().to_owned(),
        };
        *ends.entry(kind).or_insert(0) += 1;
    }
    println!("{ends:?}");
    for kind in ["ok", "BadBody", "BadHeader", "Descriptor", "HalfFrame", "TooLarge", "Version"] {
        assert!(ends.get(kind).is_some_and(|count| *count >= 50), "{kind}: {ends:?}");
    }
}

/// Files that libFuzzer starts from, or once ended on.
#[test]
fn the_corpus_breaks_nothing() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/ipc");
    if std::env::var_os("LLAMAPEN_BLESS").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        for (index, script) in scripts().iter().enumerate() {
            std::fs::write(folder.join(format!("sound-{index}")), script).unwrap();
        }
    }
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= scripts().len());
    for file in files {
        let (frames, end) = explore(&std::fs::read(&file).unwrap());
        assert!(
            !file.to_string_lossy().contains("sound") || (frames > 0 && end.is_ok()),
            "{}: {end:?}",
            file.display()
        );
    }
}

proptest! {
    #[test]
    fn random_bytes_break_nothing(
        script in prop::collection::vec(any::<u8>(), 0..2000),
        behind in prop::option::of(0usize..4),
    ) {
            let sound = behind.map(|seed| scripts().swap_remove(seed)).unwrap_or_default();
        let _ = explore(&[sound, script].concat());
    }

    #[test]
    fn any_messages_arrive_however_they_are_cut(
        messages in prop::collection::vec((any::<u64>(), ".{0,40}", prop::option::of(0usize..300)), 1..20),
        cuts in prop::collection::vec(1usize..200, 1..30),
    ) {
        let samples: Vec<_> = messages
            .iter()
            .map(|(id, text, size)| {
                let message = Sample::Run { id: *id, text: Some(text.clone()), tokens: vec![], ratio: 1.0 };
                (message, size.map(|size| blob(size).read().unwrap()))
            })
            .collect();
        let frames = samples.iter().map(|(message, bytes)| {
            let blob = bytes.as_deref().map(|bytes| Blob::from_slice(bytes).unwrap());
            frame(message, blob.as_ref()).bytes
        });
        let stream = frames.collect::<Vec<_>>().concat();
        let (mut decoder, mut got, mut rest) = (Decoder::new(), Vec::new(), &stream[..]);
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at(rest.len().min(*cut));
            let mut take = |message, blob: Option<Blob>| got.push((message, blob.map(|blob| blob.read().unwrap())));
            feed(&mut decoder, now, vec![], &mut take).unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(got, samples);
        prop_assert!(decoder.space().len() == MAX_FRAME && decoder.finish().is_ok());
    }
}
