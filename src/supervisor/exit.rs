//! Stopping at process exit: workers must not decode while native statics are being destroyed.

use super::pool::Pool;
use super::shared::Stop;
use crate::isolation::thread;
use crate::sync::Mutex;
use std::sync::{Arc, Once, Weak};

static RUNNING: Mutex<Vec<Weak<Pool>>> = Mutex::new(Vec::new());

/// Has `pool` stopped at exit, unless it is gone by then. The exit handler is registered with the first supervisor,
/// never by loading the library.
pub(super) fn watch(pool: &Arc<Pool>) {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| thread::at_exit(stop_all));
    let mut running = RUNNING.lock();
    running.retain(|other| other.strong_count() > 0);
    running.push(Arc::downgrade(pool));
}

extern "C" fn stop_all() {
    // `try_lock`: a thread that was killed inside the lock must not turn an exit into a hang.
    let Some(mut running) = RUNNING.try_lock() else { return };
    let supervisors = std::mem::take(&mut *running);
    drop(running);
    for pool in supervisors.iter().filter_map(Weak::upgrade) {
        if pool.check_process().is_ok() {
            // Nothing may unwind into C.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.stop(Stop::Asked)));
        }
    }
}
