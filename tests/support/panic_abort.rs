//! A host whose panics abort: built by `tests/panic_abort.rs` as a crate of its own. Arguments: the model, and what to do.

use llamapen::{CrashReason, EngineConfig, Event, Failed, Fault, Request, Supervisor, SupervisorConfig, prepare};

fn main() {
    assert!(cfg!(panic = "abort"));
    let mut args = std::env::args().skip(1);
    let (model, what) = (args.next().unwrap(), args.next().unwrap());
    let standard = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        eprintln!("the host's hook");
        standard(info);
    }));

    let engine = prepare(&EngineConfig::new(model).with_threads(1).with_n_ctx(256)).unwrap();
    let config = SupervisorConfig::default().with_contain_faults(what != "bare");
    let supervisor = Supervisor::start(engine, config).unwrap();
    supervisor.wait_ready(None).unwrap();
    assert!(read(&supervisor, None).is_none());
    for restarts in 1..=2 {
        let failed = read(&supervisor, Some(Fault::Panic)).unwrap();
        assert!(failed.message.contains("panic: injected panic"), "{failed:?}");
        assert!(read(&supervisor, None).is_none());
        let worker = &supervisor.health().unwrap().workers[0];
        assert_eq!((worker.restarts, worker.last_crash.as_ref().unwrap().reason), (restarts, CrashReason::Panic));
    }
    // Whoever is parked in a hook holds up whoever sets one.
    drop(std::panic::take_hook());
    supervisor.stop().unwrap();
    println!("alive");
    match what.as_str() {
        "panic" => panic!("the host's own"),
        "abort" => std::process::abort(),
        _ => {}
    }
}

/// How it failed, if it did.
fn read(supervisor: &Supervisor, fault: Option<Fault>) -> Option<Failed> {
    let mut request = Request::prompt("One, two,").with_max_tokens(4).with_ignore_eos(true).with_max_resumes(0);
    request.fault = fault;
    supervisor.submit(request).unwrap().find_map(|event| match event {
        Event::Failed(failed) => Some(failed),
        _ => None,
    })
}
