//! Where a worker's process comes in.

use super::border::guard_free;

/// For programs that have llamapen linked into them statically and want workers in processes of their own, without a second
/// program beside them: called at the very top of main, before any thread is started and any file opened. Returns at once in the
/// program itself. Where llamapen has started the program again as a worker, it runs the worker and ends the process. Programs that
/// load the shared library do not need it.
#[unsafe(no_mangle)]
pub extern "C" fn llamapen_worker_main_if_child() {
    guard_free(crate::worker_main_if_child);
}

/// Not for hosts: llamapen's own launcher calls it in a process that it has started as a worker.
#[unsafe(no_mangle)]
pub extern "C" fn llamapen_worker_main() -> i32 {
    let mut code = 1;
    guard_free(|| code = crate::isolation::child::main(crate::remote::child_main));
    code
}
