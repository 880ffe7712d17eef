//! The kinds of faults, and by what the reason of a restart tells them.

use crate::support::in_processes;
use llamapen::Fault;

#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub fault: Fault,
    /// In the reason of the restart.
    pub says: &'static str,
    /// How often it is chosen, beside the others. Endless loops take their time.
    pub weight: u32,
}

const fn kind(name: &'static str, fault: Fault, says: &'static str) -> Kind {
    Kind { name, fault, says, weight: 12 }
}

const fn seldom(name: &'static str, fault: Fault, says: &'static str) -> Kind {
    Kind { name, fault, says, weight: 1 }
}

/// On the thread that decodes.
const DECODING: &[Kind] = &[
    kind("panic", Fault::Panic, "injected panic"),
    kind("exception out of the shim", Fault::CppException, "injected C++ exception"),
    kind("exception out of a graph", Fault::Exception, "injected C++ exception"),
    kind("exception out of a sampler", Fault::SamplerException, "injected"),
    kind("std::bad_alloc", Fault::BadAlloc, "memory"),
    kind("abort", Fault::Abort, "injected abort"),
    kind("write to address 0", Fault::NullWrite, "address 0x0"),
    kind("write to nowhere", Fault::WildWrite, "0xdead0000000"),
    kind("write to a read-only page", Fault::ReadOnlyWrite, "SIGSEGV"),
    kind("write to weights", Fault::WeightWrite, "SIGSEGV"),
    kind("stack overflow", Fault::StackOverflow, "SIGSEGV"),
    kind("division by zero", Fault::DivisionByZero, "SIGFPE"),
    kind("illegal instruction", Fault::IllegalInstruction, "SIGILL"),
    seldom("endless loop", Fault::EndlessLoop, "stall"),
];

/// On a compute thread.
const COMPUTE: &[Kind] = &[
    kind("exception, compute", Fault::ComputeException, "on a compute thread"),
    kind("std::bad_alloc, compute", Fault::ComputeBadAlloc, "on a compute thread"),
    kind("abort, compute", Fault::ComputeAbort, "on a compute thread"),
    kind("write to address 0, compute", Fault::ComputeNullWrite, "on a compute thread"),
    kind("write to nowhere, compute", Fault::ComputeWildWrite, "on a compute thread"),
    kind("write to a read-only page, compute", Fault::ComputeReadOnlyWrite, "on a compute thread"),
    kind("write to weights, compute", Fault::ComputeWeightWrite, "on a compute thread"),
    kind("stack overflow, compute", Fault::ComputeStackOverflow, "on a compute thread"),
    kind("division by zero, compute", Fault::ComputeDivisionByZero, "on a compute thread"),
    kind("illegal instruction, compute", Fault::ComputeIllegalInstruction, "on a compute thread"),
    seldom("endless loop, compute", Fault::ComputeEndlessLoop, "stall"),
];

/// What only processes contain, and what only they can do to themselves.
const OF_A_PROCESS: &[Kind] = &[
    kind("SIGKILL", Fault::Killed, "SIGKILL"),
    kind("exit", Fault::Exited, "exit code 7"),
    kind("bytes that are no message", Fault::Garbage, "makes no sense"),
    kind("half a message", Fault::HalfMessage, "makes no sense"),
    kind("write in the critical section", Fault::CriticalWrite, "SIGSEGV"),
    kind("abort in the critical section", Fault::CriticalAbort, "SIGABRT"),
    kind("write inside malloc", Fault::MallocWrite, "SIGSEGV"),
    kind("broken heap", Fault::HeapCorruption, "SIGABRT"),
    seldom("memory without end", Fault::EndlessMemory, "memory"),
    seldom("SIGSTOP", Fault::Stopped, "stall"),
];

/// For workers whose own threads decode.
pub fn decoding() -> Vec<Kind> {
    [DECODING, if in_processes() { OF_A_PROCESS } else { &[] }].concat()
}

/// For workers with a compute thread.
pub fn compute() -> Vec<Kind> {
    COMPUTE.to_vec()
}

pub fn choose<'a>(kinds: &'a [Kind], random: &mut fastrand::Rng) -> &'a Kind {
    let mut n = random.u32(0..kinds.iter().map(|kind| kind.weight).sum());
    let chosen = kinds.iter().find(|kind| {
        let here = n < kind.weight;
        n = n.saturating_sub(kind.weight);
        here
    });
    chosen.expect("less than the sum")
}
