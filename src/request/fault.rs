//! Faults on demand.

use serde::{Deserialize, Serialize};

/// A fault that a worker provokes in itself, once, when the request has its
/// [`fault_after`](crate::Request::fault_after) tokens unless said: for tests of the containment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fault {
    /// A Rust panic in the worker's loop.
    Panic,
    /// The same in every worker that runs the request.
    PanicAlways,
    /// Its snapshots are damaged, as by a stray write.
    DamagedSnapshot,
    /// A C++ exception inside the shim.
    CppException,
    /// A token that llama.cpp refuses, in the batch that all running requests share.
    BadToken,
    /// More tokens in that batch than a sequence has room for, once: a full KV cache. Needs an `n_ubatch` above `n_ctx`.
    FullCache,
    /// That batch is decoded, and reported as failed, once: as when a graph fails after a part of it was computed.
    FailedDecode,
    /// A write to address 0, on the thread that decodes, inside a graph.
    NullWrite,
    /// A write to an address where nothing is, as above.
    WildWrite,
    /// A write to a page that may only be read, as above.
    ReadOnlyWrite,
    /// A write to weights of the first layer, as above: mapped from the model's file, or in memory of their own.
    WeightWrite,
    /// The write to address 0, by two requests with this fault in different workers at the same moment.
    NullWriteTogether,
    /// `GGML_ABORT`, as above.
    Abort,
    /// A recursion without end, as above.
    StackOverflow,
    /// A division of whole numbers by zero, as above.
    DivisionByZero,
    /// An instruction that there is not, as above.
    IllegalInstruction,
    /// A loop without end, as above: only a stall ends it.
    EndlessLoop,
    /// A C++ exception out of a graph, as above.
    Exception,
    /// The write to address 0 on a compute thread.
    ComputeNullWrite,
    /// The write to where nothing is on a compute thread.
    ComputeWildWrite,
    /// The write to a page that may only be read on a compute thread.
    ComputeReadOnlyWrite,
    /// The write to weights on a compute thread.
    ComputeWeightWrite,
    /// `GGML_ABORT` on a compute thread.
    ComputeAbort,
    /// The recursion without end on a compute thread.
    ComputeStackOverflow,
    /// The division by zero on a compute thread.
    ComputeDivisionByZero,
    /// The instruction that there is not on a compute thread.
    ComputeIllegalInstruction,
    /// The loop without end on a compute thread.
    ComputeEndlessLoop,
    /// The C++ exception on a compute thread.
    ComputeException,
    /// `std::bad_alloc` on a compute thread.
    ComputeBadAlloc,
    /// `operator new` throws `std::bad_alloc` inside `llama_decode`.
    BadAlloc,
    /// A C++ exception out of a filter of llama.cpp's sampler.
    SamplerException,
    /// A loop without end while the prompt is tokenised.
    EndlessTokeniser,
    /// A loop without end while a piece of the prompt is decoded.
    EndlessPrompt,
    /// A copy of a few KB to an address where nothing is, on the thread that decodes, inside a graph.
    WildCopy,
    /// A write to such an address while the thread is in ggml's critical section, which all graphs go through.
    CriticalWrite,
    /// `GGML_ABORT` in there.
    CriticalAbort,
    /// It stays in there until it is told to die, leaves it, and loops without end.
    CriticalWait,
    /// The write of a broken heap inside malloc.
    MallocWrite,
    /// A broken heap that the C library notices, and aborts.
    HeapCorruption,
    /// It allocates without end: only a stall ends it.
    EndlessAllocation,
    /// A compute thread does, and the thread that decodes aborts.
    AbortBesideAllocation,
    /// A kernel on the GPU writes to an address where nothing is. This and the next are for engines on GPUs; elsewhere a
    /// submit refuses them.
    GpuIllegalAddress,
    /// While a piece of the prompt is decoded, something in the process takes all memory of the GPU, and keeps it.
    GpuMemory,
    /// SIGKILL. This and what follows is for workers that are processes; elsewhere a submit refuses it.
    Killed,
    /// SIGSTOP: it does nothing any more.
    Stopped,
    /// It ends itself, with exit code 7 and a last line on stderr.
    Exited,
    /// It sends its host bytes that are no message.
    Garbage,
    /// It sends half of a message, and ends itself.
    HalfMessage,
    /// It writes to memory without end, until a limit ends it.
    EndlessMemory,
    /// It tries what a sandbox refuses, and ends with what came of it as a message.
    SandboxProbe,
    /// None: the worker logs when it took the request up and when it ended it, as nanoseconds on the system's monotonic clock.
    Stamp,
}

impl Fault {
    /// Whether only a worker on a GPU may have it.
    pub(crate) fn is_of_a_gpu(self) -> bool {
        matches!(self, Self::GpuIllegalAddress | Self::GpuMemory)
    }

    /// Whether only a worker that is a process may have it.
    pub(crate) fn is_of_a_process(self) -> bool {
        matches!(
            self,
            Self::Killed
                | Self::Stopped
                | Self::Exited
                | Self::Garbage
                | Self::HalfMessage
                | Self::EndlessMemory
                | Self::SandboxProbe
        )
    }
}
