//! llama.cpp's log, routed to `tracing` under the target `llama.cpp`. Nothing reaches stderr.

use std::cell::RefCell;
use std::ffi::{CStr, c_char};

thread_local! {
    /// llama.cpp writes some lines in pieces: they are put together here until the newline comes.
    static PENDING: RefCell<(i32, String)> = const { RefCell::new((0, String::new())) };
}

/// lp_log_fn. Called by llama.cpp on whichever thread logs.
pub(super) unsafe extern "C" fn line(level: i32, text: *const c_char) {
    // A subscriber of the host may panic; nothing may unwind into C++.
    let _ = std::panic::catch_unwind(|| {
        // SAFETY: the shim passes on llama.cpp's text, which ends with NUL and lives for the call.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        // `try_with`: a thread may still log while its thread-locals are being destroyed.
        let _ = PENDING.try_with(|pending| {
            // A subscriber that itself ends up here must not find the buffer borrowed.
            let complete = {
                let Ok(mut pending) = pending.try_borrow_mut() else { return };
                append(&mut pending, level, &text)
            };
            for (level, line) in complete {
                emit(level, &line);
            }
        });
    });
}

const CONTINUES: i32 = 5;

/// Adds a piece; returns the lines that are complete.
fn append(pending: &mut (i32, String), level: i32, text: &str) -> Vec<(i32, String)> {
    if level != CONTINUES {
        pending.0 = level;
    }
    pending.1.push_str(text);
    let Some(end) = pending.1.rfind('\n') else { return Vec::new() };
    let rest = pending.1.split_off(end + 1);
    let complete = std::mem::replace(&mut pending.1, rest);
    complete.lines().filter(|l| !l.trim_matches(['.', ' ']).is_empty()).map(|l| (pending.0, l.to_owned())).collect()
}

fn emit(level: i32, line: &str) {
    const TARGET: &str = "llama.cpp";
    match level {
        4 => tracing::error!(target: TARGET, "{line}"),
        3 => tracing::warn!(target: TARGET, "{line}"),
        2 => tracing::debug!(target: TARGET, "{line}"),
        _ => tracing::trace!(target: TARGET, "{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::append;

    #[test]
    fn lines_are_put_together_and_progress_dots_left_out() {
        let mut pending = (0, String::new());
        assert!(append(&mut pending, 2, "load: ").is_empty());
        assert_eq!(append(&mut pending, 5, "done\nnext\npart"), [(2, "load: done".into()), (2, "next".into())]);
        assert_eq!(append(&mut pending, 3, "ial\n......\n"), [(3, "partial".into())]);
    }
}
