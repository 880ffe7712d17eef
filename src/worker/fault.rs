//! Faults that a request asks for: each as it would come from the engine.

use super::Ended;
use super::batching::Loop;
use super::slot::Running;
use super::snapshot::Snapshot;
use crate::isolation::{Injected, Place};
use crate::job::Job;
use crate::native::{Sampler, throw_exception};
use crate::request::Fault;
use rustix::time::{ClockId, clock_gettime};

/// What a fault does, and where. `None`: it has a way of its own.
fn injection(fault: Fault) -> Option<(Injected, Place)> {
    Some(match fault {
        Fault::Panic
        | Fault::PanicAlways
        | Fault::DamagedSnapshot
        | Fault::CppException
        | Fault::BadToken
        | Fault::FullCache
        | Fault::FailedDecode
        | Fault::Killed
        | Fault::Stopped
        | Fault::Exited
        | Fault::Garbage
        | Fault::HalfMessage
        | Fault::EndlessMemory
        | Fault::SandboxProbe
        | Fault::Stamp => return None,
        Fault::NullWrite => (Injected::NullWrite, Place::Graph),
        Fault::WildWrite => (Injected::WildWrite, Place::Graph),
        Fault::ReadOnlyWrite => (Injected::ReadOnlyWrite, Place::Graph),
        Fault::WeightWrite => (Injected::WeightWrite, Place::Graph),
        Fault::NullWriteTogether => (Injected::Together, Place::Graph),
        Fault::Abort => (Injected::Abort, Place::Graph),
        Fault::StackOverflow => (Injected::StackOverflow, Place::Graph),
        Fault::DivisionByZero => (Injected::Division, Place::Graph),
        Fault::IllegalInstruction => (Injected::Illegal, Place::Graph),
        Fault::EndlessLoop | Fault::EndlessPrompt => (Injected::Loop, Place::Graph),
        Fault::Exception => (Injected::Throw, Place::Graph),
        Fault::ComputeNullWrite => (Injected::NullWrite, Place::Compute),
        Fault::ComputeWildWrite => (Injected::WildWrite, Place::Compute),
        Fault::ComputeReadOnlyWrite => (Injected::ReadOnlyWrite, Place::Compute),
        Fault::ComputeWeightWrite => (Injected::WeightWrite, Place::Compute),
        Fault::ComputeAbort => (Injected::Abort, Place::Compute),
        Fault::ComputeStackOverflow => (Injected::StackOverflow, Place::Compute),
        Fault::ComputeDivisionByZero => (Injected::Division, Place::Compute),
        Fault::ComputeIllegalInstruction => (Injected::Illegal, Place::Compute),
        Fault::ComputeEndlessLoop => (Injected::Loop, Place::Compute),
        Fault::ComputeException => (Injected::Throw, Place::Compute),
        Fault::ComputeBadAlloc => (Injected::NoMemory, Place::Compute),
        Fault::BadAlloc => (Injected::NoMemory, Place::New),
        Fault::SamplerException => (Injected::Throw, Place::Sampler),
        Fault::EndlessTokeniser => (Injected::Loop, Place::New),
        Fault::WildCopy => (Injected::Copy, Place::Graph),
        Fault::CriticalWrite => (Injected::CriticalWrite, Place::Graph),
        Fault::CriticalAbort => (Injected::CriticalAbort, Place::Graph),
        Fault::CriticalWait => (Injected::CriticalWait, Place::Graph),
        Fault::MallocWrite => (Injected::MallocWrite, Place::Graph),
        Fault::HeapCorruption => (Injected::Heap, Place::Graph),
        Fault::EndlessAllocation => (Injected::Allocate, Place::Graph),
        Fault::AbortBesideAllocation => (Injected::AllocateAndAbort, Place::Compute),
        Fault::GpuIllegalAddress => (Injected::GpuAddress, Place::Graph),
        Fault::GpuMemory => (Injected::GpuMemory, Place::Graph),
    })
}

fn arm(fault: Fault) {
    if let Some((injected, place)) = injection(fault) {
        crate::isolation::arm(injected, place);
    }
}

/// The fault that the request asks for, unless that has happened.
fn wanted(job: &Job) -> Option<Fault> {
    let always = job.request.fault == Some(Fault::PanicAlways);
    job.request.fault.filter(|_| always || job.events.run() == 0)
}

/// Before a request's prompt is tokenised.
pub(super) fn before_tokenising(job: &Job) {
    match wanted(job) {
        Some(Fault::EndlessTokeniser) => arm(Fault::EndlessTokeniser),
        Some(Fault::Stamp) => tracing::info!(request = job.id, at = now(), "taken up"),
        _ => {}
    }
}

/// Before an errand's first decode.
pub(super) fn before_measuring() {
    if crate::supervisor::dies_measuring() {
        crate::isolation::arm(Injected::NullWrite, Place::Graph);
    }
}

/// When a request's last event was given: told when this is dropped, because telling takes time.
pub(super) struct Stamped(Option<(u64, u64)>);

impl Stamped {
    pub(super) fn now(job: &Job) -> Self {
        Self((wanted(job) == Some(Fault::Stamp)).then(|| (job.id, now())))
    }
}

impl Drop for Stamped {
    fn drop(&mut self) {
        if let Some((request, at)) = self.0 {
            tracing::info!(request, at, "ended");
        }
    }
}

/// Nanoseconds on the clock that all processes share.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Before a piece of its prompt is decoded.
pub(super) fn before_a_piece(job: &Job) {
    if let Some(fault @ (Fault::EndlessPrompt | Fault::GpuMemory)) = wanted(job) {
        arm(fault);
    }
}

/// When its sampler was made.
pub(super) fn prepare_sampler(job: &Job, sampler: &mut Sampler) {
    if wanted(job) == Some(Fault::SamplerException) {
        sampler.add_fault();
    }
}

/// The snapshot, as the fault that is asked for leaves it.
pub(super) fn damaged(job: &Job, snapshot: Snapshot) -> Snapshot {
    match wanted(job) {
        Some(Fault::DamagedSnapshot) => snapshot.damage(),
        _ => snapshot,
    }
}

impl Loop<'_> {
    /// Before the next batch is put together, for requests that have so many tokens as they say.
    pub(super) fn inject_faults(&mut self) -> Result<(), Ended> {
        let is_time = |running: &&mut Running| running.generated >= running.job.request.fault_after;
        for running in self.slots.iter_mut().flatten().filter(is_time) {
            if running.is_prefilling() {
                continue;
            }
            match wanted(&running.job) {
                Some(Fault::Panic | Fault::PanicAlways) => panic!("injected panic"),
                Some(Fault::DamagedSnapshot) => {}
                Some(Fault::CppException) => throw_exception()?,
                Some(Fault::BadToken) => running.last = i32::MAX,
                Some(Fault::FailedDecode) if running.generated == 1 => self.context.fail_next_decode(),
                Some(Fault::FailedDecode | Fault::FullCache) | None => {}
                Some(other) if other.is_of_a_process() => {
                    if let Some(host) = self.worker.state.host() {
                        host.suffer(other, self.worker.prepared.model());
                    }
                }
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
