//! Faults of a process, which a request asks for.

use super::host::Host;
use super::message::ToHost;
use crate::crash::CrashReason;
use crate::isolation::confine::probe::{Targets, probe};
use crate::isolation::thread::{exit_now, raise};
use crate::request::Fault;
use crate::status::Status;
use std::path::Path;

impl Host {
    /// What this child does to itself, or to its host.
    pub(crate) fn suffer(&self, fault: Fault, model: &Path) {
        match fault {
            Fault::Killed => raise(libc::SIGKILL),
            Fault::Stopped => raise(libc::SIGSTOP),
            Fault::Exited => {
                eprintln!("injected exit");
                exit_now(7)
            }
            // Longer than what a message begins with.
            Fault::Garbage => self.write(&[0xa5; 4096]),
            Fault::HalfMessage => {
                self.write_half(&ToHost::Done);
                exit_now(0)
            }
            Fault::EndlessMemory => {
                let mut taken = vec![];
                loop {
                    taken.push(vec![1u8; 16 << 20]);
                }
            }
            Fault::SandboxProbe => {
                let targets = Targets { model: model.into(), port: port() };
                let tried: Vec<_> = probe(&targets)
                    .into_iter()
                    .map(|(what, came)| match came {
                        Ok(()) => format!("{what}: succeeded"),
                        Err(errno) => format!("{what}: {}", std::io::Error::from_raw_os_error(errno)),
                    })
                    .collect();
                let (reason, status) = (CrashReason::EngineError, Status::WorkerReset);
                self.say_now(&ToHost::Died { reason, status, message: tried.join("; ") });
                exit_now(0)
            }
            _ => {}
        }
    }
}

/// Where somebody listens, as the host's environment says.
fn port() -> u16 {
    std::env::var("LLAMAPEN_PROBE_PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(9)
}
