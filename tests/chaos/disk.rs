//! A disk that is full: of a limit on the size of files, which goes for logs and for the memory in which snapshots travel.

use std::path::Path;

const BYTES: u64 = 64 << 10;

/// Until it is dropped. Processes that were started before have no limit: they die of a fault soon.
pub struct Full(libc::rlimit);

impl Full {
    pub fn begin(logs: &Path) -> Self {
        for log in std::fs::read_dir(logs).unwrap() {
            let log = std::fs::File::options().write(true).open(log.unwrap().path()).unwrap();
            log.set_len(log.metadata().unwrap().len().max(BYTES)).unwrap();
        }
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a plain value, which outlives the call.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut before) }, 0);
        set(&libc::rlimit { rlim_cur: BYTES, ..before });
        Self(before)
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        set(&self.0);
    }
}

fn set(limit: &libc::rlimit) {
    // SAFETY: a plain value, which outlives the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, limit) }, 0);
}
