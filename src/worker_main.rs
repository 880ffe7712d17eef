//! For programs that llamapen is linked into: they can be their own workers.

/// For a program that has llamapen linked into it (not as a shared library) and wants workers in processes of their own, without
/// a second program beside it: called at the very top of `main`, before any thread is started and any file opened.
///
/// Returns at once in the program itself. Where llamapen has started the program again as a worker, it runs the worker and ends
/// the process: signals are reset, and all descriptors but stdin, stdout and stderr are closed.
///
/// ```no_run
/// llamapen::worker_main_if_child();
/// // The program.
/// ```
pub fn worker_main_if_child() {
    crate::isolation::child::main_if_child(crate::remote::child_main);
}
