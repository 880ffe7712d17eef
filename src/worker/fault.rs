//! Faults that a request asks for, after its first token: each as it would come from the engine.

use super::Ended;
use super::batching::Loop;
use super::slot::Running;
use super::snapshot::Snapshot;
use crate::isolation::Injected;
use crate::native::throw_exception;
use crate::request::Fault;

impl Running {
    /// The snapshot, as the fault that is asked for leaves it.
    pub(super) fn damaged(&self, mut snapshot: Snapshot) -> Snapshot {
        if self.job.request.fault == Some(Fault::DamagedSnapshot) {
            snapshot.damage();
        }
        snapshot
    }
}

/// What the next graph of this worker meets.
fn arm(fault: Fault) {
    let (injected, on_compute_thread) = match fault {
        Fault::NullWrite => (Injected::NullWrite, false),
        Fault::WildWrite => (Injected::WildWrite, false),
        Fault::Abort => (Injected::Abort, false),
        Fault::StackOverflow => (Injected::StackOverflow, false),
        Fault::DivisionByZero => (Injected::Division, false),
        Fault::IllegalInstruction => (Injected::Illegal, false),
        Fault::EndlessLoop => (Injected::Loop, false),
        Fault::Exception => (Injected::Throw, false),
        Fault::ComputeNullWrite => (Injected::NullWrite, true),
        Fault::ComputeAbort => (Injected::Abort, true),
        Fault::ComputeStackOverflow => (Injected::StackOverflow, true),
        Fault::ComputeException => (Injected::Throw, true),
        Fault::Panic
        | Fault::PanicAlways
        | Fault::DamagedSnapshot
        | Fault::CppException
        | Fault::BadToken
        | Fault::FullCache
        | Fault::FailedDecode => return,
    };
    crate::isolation::arm(injected, on_compute_thread);
}

impl Loop<'_> {
    /// Before the next batch is put together.
    pub(super) fn inject_faults(&mut self) -> Result<(), Ended> {
        for running in self.slots.iter_mut().flatten().filter(|running| running.generated > 0) {
            match running.job.request.fault {
                Some(Fault::PanicAlways) => panic!("injected panic"),
                _ if running.is_resumed() => {}
                Some(Fault::DamagedSnapshot) => {}
                Some(Fault::Panic) => panic!("injected panic"),
                Some(Fault::CppException) => throw_exception()?,
                Some(Fault::BadToken) => running.last = i32::MAX,
                Some(Fault::FailedDecode) if running.generated == 1 => self.context.fail_next_decode(),
                Some(Fault::FailedDecode | Fault::FullCache) | None => {}
                Some(other) => arm(other),
            }
        }
        Ok(())
    }

    /// Once it is: more tokens than a sequence has room for.
    pub(super) fn overfill_batch(&mut self) {
        let asks = |running: &Running| running.generated == 1 && running.job.request.fault == Some(Fault::FullCache);
        for (slot, _) in self.slots.iter().enumerate().filter(|(_, running)| running.as_ref().is_some_and(asks)) {
            let next = self.cache.tokens(slot).len() + 1;
            let room = self.worker.prepared.n_ubatch() as usize - self.batch.len();
            for position in next..next + room {
                self.batch.push(1, u32::try_from(position).expect("small"), slot as u32, false);
            }
        }
    }
}
