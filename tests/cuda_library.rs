//! The library with the kernels, where a driver says that there are GPUs and nothing else is there: what is missing is said,
//! in both tiers, and the host lives. Needs the feature `cuda`; `make cuda-check` runs it, with a toolkit in LLAMAPEN_CUDA_ROOT.
#![cfg(feature = "cuda")]

mod support;

use llamapen::{Isolation, State, Status, Supervisor, SupervisorConfig, prepare};
use serde::{Deserialize, Serialize};

/// The child: not a test by itself. Its driver and management library are stand-ins.
#[test]
#[ignore = "run by the other tests, in a child process"]
fn preflight_child() {
    let report = llamapen::preflight(&support::config());
    let check = report.get("free_gpu_memory").unwrap_or_else(|| panic!("{report}"));
    support::child::answer(&check.message);
}

#[test]
fn the_preflight_asks_the_management_library_what_is_free() {
    let driver = support::cuda_stand_in(&[]);
    let ask = || -> String {
        let mut command = support::child::command_of("preflight_child", &());
        support::child::answer_of(&command.env("LD_LIBRARY_PATH", driver.path()).output().unwrap())
    };
    assert!(ask().contains("GPU0: ") && ask().contains("an unknown number"), "there is none");
    support::nvml_stand_in(driver.path());
    let told = ask();
    assert!(
        told.contains("of 3.00 GiB that are free now, GPU2: ") && told.ends_with("of 5.00 GiB that are free now"),
        "{told}"
    );
}

#[derive(Serialize, Deserialize)]
struct Seen {
    status: i32,
    message: String,
    /// The host has the CUDA runtime or the kernels in it.
    host_has_cuda: bool,
}

/// The child: not a test by itself. The driver is a stand-in, without the functions that the CUDA runtime needs.
#[test]
#[ignore = "run by the other tests, in a child process"]
fn child() {
    let isolation: Isolation = support::child::asked();
    let engine = prepare(&support::config().with_require_gpu(true).with_isolation(isolation)).unwrap();
    assert!(!engine.devices().is_empty());
    let supervisor = Supervisor::start(engine, SupervisorConfig::default()).unwrap();
    let error = supervisor.wait_ready(Some(support::LONG)).unwrap_err();
    assert_eq!(supervisor.health().unwrap().state, State::Failed);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let host_has_cuda = maps.contains("libllamapen-cuda") || maps.contains("libcublas");
    support::child::answer(&Seen { status: error.status() as i32, message: error.to_string(), host_has_cuda });
}

fn seen(isolation: Isolation, has_cublas: bool) -> Seen {
    let driver = support::cuda_stand_in(&[]);
    let mut command = support::child::command(&isolation);
    command.env("LD_LIBRARY_PATH", driver.path());
    if !has_cublas {
        ["LLAMAPEN_CUDA_ROOT", "CUDA_HOME", "CUDA_PATH"].iter().for_each(|name| {
            command.env_remove(name);
        });
    }
    support::child::answer_of(&command.output().unwrap())
}

#[test]
fn a_gpu_that_cuda_does_not_find_is_an_error_that_says_so() {
    for isolation in [Isolation::Thread, Isolation::Process] {
        let seen = seen(isolation, true);
        assert!(seen.message.contains("there is no GPU0 here"), "{isolation:?}: {}", seen.message);
        assert_eq!(seen.status, Status::LoadFailed as i32);
        assert_eq!(seen.host_has_cuda, isolation == Isolation::Thread, "in its own process only");
    }
}

#[test]
fn without_cublas_the_error_says_where_to_get_it() {
    for isolation in [Isolation::Thread, Isolation::Process] {
        let seen = seen(isolation, false);
        assert!(
            seen.message.contains("libcublas.so.13") && seen.message.contains("LLAMAPEN_CUDA_ROOT"),
            "{}",
            seen.message
        );
        assert_eq!(seen.status, Status::LoadFailed as i32);
    }
}
