//! A worker in a process of its own, for hosts that have llamapen linked into them and ship this program beside them. The host
//! starts it, and it must be of the same version.

fn main() {
    llamapen::worker_main_if_child();
    eprintln!(
        "llamapen-worker is started by programs that use llamapen, to run a model in a process of its own.\n\
         Put it beside such a program, or name it in LLAMAPEN_WORKER. By hand it does nothing."
    );
    std::process::exit(2);
}
