//! # llamapen
//!
//! llama.cpp, compiled into your program, behind a supervisor that keeps a failing engine from taking the program along.
//!
//! * [`prepare()`] looks at a model file and this machine and decides how to run it. It does nothing else.
//! * [`Supervisor`] runs what was prepared: loads, decodes, restarts. It decides nothing about the model.
//! * [`TokenStream`] gives the events of a request, for blocking and asynchronous code.
//!
//! ```no_run
//! use llamapen::{EngineConfig, Event, Message, Request, Supervisor, SupervisorConfig, prepare};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = prepare(&EngineConfig::new("SmolLM2-135M-Instruct.Q4_1.gguf"))?;
//! let supervisor = Supervisor::start(engine, SupervisorConfig::default())?;
//! let request = Request::chat([Message::user("What is the capital of France?")]).with_temperature(0.0);
//! for event in supervisor.submit(request)? {
//!     match event {
//!         Event::Token(token) => print!("{}", token.text),
//!         Event::Failed(failed) => return Err(failed.message.into()),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! ## Threads
//! Everything public is `Send`, and `Sync` where several threads can use it: one [`Supervisor`] serves them all; a
//! [`TokenStream`] has one consumer. Nothing may be used in a child process made by `fork`: every call there returns
//! [`Status::Forked`].
//!
//! ## What is contained
//! A Rust panic, a C++ exception, an abort, a memory fault or an endless loop of a worker restarts the worker, and its requests
//! go on in the next one. `docs/containment.md` says what is not contained where workers are threads. With
//! [`Isolation::Process`] each is a child process: whatever becomes of it, this process goes on.
//!
//! ## Logs
//! Through [`tracing`](https://docs.rs/tracing): llama.cpp's under the target `llama.cpp`, ours under `llamapen`. Texts of
//! prompts and answers are never logged by llamapen. Nothing is written to stdout or stderr. Requests have a span each (`pool_id`,
//! `request`, `seed`, `worker`); their steps are `DEBUG`, their ends `INFO`, failures `WARN`; workers start and end at
//! `INFO` and fail at `ERROR`.

#![deny(unsafe_code)]

#[cfg(feature = "benches")]
#[doc(hidden)]
pub mod benching;
mod build_info;
mod config;
mod crash;
pub mod device;
mod error;
mod event;
mod event_queue;
#[allow(unsafe_code)]
pub mod ffi;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod heartbeat;
#[cfg(all(test, loom))]
mod interleavings;
#[allow(unsafe_code)]
mod isolation;
mod job;
mod machine;
pub mod model;
#[allow(unsafe_code)]
mod native;
mod prepare;
mod process;
mod remote;
mod request;
mod status;
mod stream;
mod supervisor;
mod sync;
mod telemetry;
mod worker;
mod worker_main;

pub use build_info::{BuildInfo, CpuLevel, build_info};
pub use config::{
    ChildConfig, DEFAULT_CTX, DEFAULT_UBATCH, EngineConfig, Isolation, KvType, MIN_CTX, QueueFullPolicy, Sandbox,
    Shrink, StartFault, SupervisorConfig, TaintPolicy, Tuning,
};
pub use crash::{ChildExit, Crash, CrashReason};
pub use error::{Error, Rejected, Result};
pub use event::{
    Event, Failed, FinishReason, Finished, Logprobs, Restarted, Started, Timings, Token, TokenLogprob, Usage,
};
pub use event_queue::Next;
pub use isolation::confine::{ConfinementReport, Guard, MemoryLimit};
pub use machine::{MachineSnapshot, MemoryReading};
pub use prepare::{
    Check, CheckStatus, FileIdentity, MemoryPlan, PlacePlan, Plan, Preflight, PrepareOptions, PreparedEngine, Rate,
    Step, plan, plan_on, plan_with, preflight, preflight_on, preflight_with, prepare, prepare_on, prepare_with,
};
pub use request::{Fault, Message, Priority, Request};
pub use status::Status;
pub use stream::{Canceller, Completion, TokenStream};
pub use supervisor::{
    BreakerState, Calibration, CalibrationState, DrainReport, HandoffChange, HandoffRecord, HandoffWatcher, Health,
    Lease, QueueDepths, ReloadReport, SelfTestReport, SelfTestStatus, SelfTestStep, State, Supervisor, WorkerHealth,
};
pub use telemetry::{Histogram, Metrics, RequestCounts, RunRecord, WorkerMetrics};
pub use worker::{LoadPhases, PlaceMemory, StartPhases, WorkerProcess};
pub use worker_main::worker_main_if_child;

/// The real model that unit tests run: `LLAMAPEN_TEST_MODEL`, which `make test` sets.
#[cfg(test)]
fn test_model() -> std::path::PathBuf {
    std::env::var_os("LLAMAPEN_TEST_MODEL").expect("LLAMAPEN_TEST_MODEL names the file that `make model` prints").into()
}
