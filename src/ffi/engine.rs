//! Prepared engines.

use super::border::{free, give, give_text, guard, object, text};
use super::error::llamapen_error;
use super::options::Options;
use super::progress::{llamapen_progress, teller};
use crate::config::EngineConfig;
use crate::prepare::{PreparedEngine, prepare, prepare_with};
use std::ffi::{c_char, c_void};

/// The checked configuration of one model on this machine. Immutable; may be used by several threads and freed while
/// supervisors made from it run.
#[allow(non_camel_case_types)]
pub struct llamapen_engine {
    pub(super) prepared: PreparedEngine,
}

/// Checks a model file and this machine, and decides how to run it. Loads nothing, starts nothing, writes nothing. Where a
/// digest is given, it reads the whole file, on this thread; otherwise only its header.
///
/// config: JSON. Unknown keys are refused by name, what is left out is chosen:
///   "model"            required: the path of a GGUF file, of any part of a split model, or of a folder with one model in
///                      it; or "hf:org/repo@revision/file" in the local hub cache. Nothing is ever downloaded.
///   "digest"           "sha256:..." that the file must have; of a split model an array, one per file.
///   "n_ctx"            positions (prompt and generated tokens) per slot, from 16 to what the model was trained with;
///                      by default that, at most 4096.
///   "n_ubatch"         tokens per micro-batch, 1 to 4096 and at least one per slot; 256, and 512 on GPUs.
///   "streams"          requests that are expected to run at a time, 1 to 64: chooses "workers" and "slots" where they are left
///                      out. On the CPU a worker for each, at most 4 and no more than cores, which share the cores; 1.
///   "tuning"           what workers, slots and micro-batches are chosen for where they are left out: "latency" (one worker, all
///                      cores for each token, small micro-batches), "throughput" (large ones, workers where they gain by an
///                      estimate; 8 streams if nobody says how many), or "auto": as measured while nothing runs, half a second
///                      in all; see "calibration" of the health. By default as "streams" says.
///   "tuning_cache"     with "auto": a folder in which what was measured is kept for the next start; none.
///   "threads"          compute threads, of all workers together with "share_threads", else of each; the cores that this process
///                      may use, in the second case divided by workers.
///   "share_threads"    true: a worker that is alone computes with all threads, several with a share each, as many as have
///                      requests at that moment; true where "threads" is left out and there are several workers, but not if
///                      deterministic. Otherwise workers times threads are at most the CPUs that this process may use.
///   "workers"          workers on shared weights, each with its own context; as "streams" says, else 1.
///   "isolation"        where workers run: "thread" (of this process), or "process": each as a child process that loads the
///                      model itself, so that whatever becomes of it, this process goes on; "thread" on the CPU. A program
///                      that links llamapen statically sees llamapen_worker_main_if_child.
///   "warm_spare"       true, with "process": one loaded child more, in reserve for one that dies; false.
///   "slots"            requests that one worker runs at a time, 1 to 64; as "streams" says, else 1.
///   "kv_type_k", "kv_type_v"  element types of the KV cache: "f32", "f16" (default), "bf16", "q8_0", "q5_1", "q5_0",
///                      "q4_1", "q4_0" or "iq4_nl". A quantized kv_type_v needs flash attention.
///   "flash_attention"  true or false; true, except for models that cannot, and on GPUs for sizes of heads that those cannot.
///   "swa_full"         true: layers with a sliding window remember every position; false.
///   "prefix_cache"     true (default): slots keep what they computed, and a request that begins as an earlier one decodes
///                      only the rest ("cached_tokens" of its STARTED event).
///   "prefix_store_bytes"  host memory for saved beginnings whose slots were needed for other requests; 0: none are saved.
///   "draft_max"        most tokens that are guessed ahead from the text itself and checked in one decode, 0 to 15: answers
///                      are the same, and faster where they repeat; 0. A worker where they would not be the same makes no
///                      guesses and says so ("draft_max" of its health).
///   "devices"          GPUs that may be used: "auto" (default), "none", or indices such as "0,1", the main one first.
///   "require_gpu"      true: fail where there is no usable GPU, instead of using the CPU; false.
///   "n_gpu_layers"     layers on GPUs, the output layer counted as one; all, where GPUs are used.
///   "tensor_split"     how layers are divided over several GPUs, such as "3,1"; by their memory.
///   "memory_limit"     bytes that the model may take besides weights mapped from the file; what the machine allows.
///   "shrink"           what may be reduced, and how far, where memory does not suffice, in this order: {"kv_type",
///                      "slots", "n_ctx", "n_gpu_layers"}, each the least (the narrowest) that must be left;
///                      nothing.
///   "deterministic"    true: equal requests give equal answers, bit by bit. Needs one slot per worker, micro-batches of
///                      at most 63 tokens and flash attention; false.
///   "seed"             seed of requests that have none, 0 to 2^64-1; drawn for each, or 0 if deterministic.
///   "use_mmap"         map the weights instead of reading them; true.
///   "use_repack"       rearrange weights in memory where that makes faster kernels; if they fit. Each process holds them for itself,
///                      and last bits differ from those of llama.cpp's plain kernels.
///   "use_mlock"        lock the weights into memory; false.
///   "pool_id"          name for logs and records: 1 to 128 letters, digits, '.', '_', '-', not '.' first; the model's id.
///   "replica_id"       which of several equal pools it is; 0.
/// Errors: INVALID_PARAMS, MODEL_NOT_FOUND, MODEL_INVALID, DIGEST_MISMATCH, OUT_OF_MEMORY (it would not fit; the message
/// has the bytes and what to do), DEVICE_ERROR (a GPU is a must and cannot be used as asked), UNSUPPORTED (not by this
/// build, or not this kind of model; or a model that is not on this machine).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_prepare(
    config: *const c_char,
    config_len: usize,
    engine: *mut *mut llamapen_engine,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: pointer and length belong together, as the header demands.
        let config = EngineConfig::from_json(unsafe { text("config", config, config_len) }?)?;
        Ok(llamapen_engine { prepared: prepare(&config)? })
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give("engine", engine, make)) }
}

/// The same, for a machine that was observed before or is not there, with progress and cancelling while digests are
/// computed. Equal config, machine and file give equal bytes.
///
/// options: JSON, or NULL and 0. Optional: "machine" (an object as llamapen_machine gives it; by default this one,
/// observed), "hub" (the folder of the hub cache; by default by the environment, as the hub's own tools find it) and
/// "digest_cache" (a folder for verified digests, so that an unchanged file is not read again; by default none, and
/// nothing is written). Unknown keys are refused by name. An engine for another machine is refused with STALE_ENGINE
/// when it is started on one that does not allow it.
/// progress: NULL, or called with `user` while a digest is computed.
/// Errors: as for llamapen_prepare, and CANCELLED (by progress).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_prepare_with(
    config: *const c_char,
    config_len: usize,
    options: *const c_char,
    options_len: usize,
    progress: llamapen_progress,
    user: *mut c_void,
    engine: *mut *mut llamapen_engine,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: pointers and lengths belong together, and progress is NULL or callable, as the header demands.
        let (config, options, mut progress) = unsafe {
            let config = EngineConfig::from_json(text("config", config, config_len)?)?;
            (config, Options::read(options, options_len)?, teller(progress, user))
        };
        let machine = options.machine()?;
        let prepared = prepare_with(&config, &machine, options.prepare().with_progress(&mut progress))?;
        Ok(llamapen_engine { prepared })
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give("engine", engine, make)) }
}

/// Reads what llamapen_engine_json wrote. It is checked against build, machine and file when it is started.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_engine_from_json(
    json: *const c_char,
    json_len: usize,
    engine: *mut *mut llamapen_engine,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: pointer and length belong together, as the header demands.
        let json = unsafe { text("json", json, json_len) }?;
        Ok(llamapen_engine { prepared: PreparedEngine::from_json(json)? })
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give("engine", engine, make)) }
}

/// What was decided, and what the model's header says ("info"), as JSON. Freed with llamapen_string_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_engine_json(
    engine: *const llamapen_engine,
    json: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    // SAFETY: NULL or live, NULL or may be written to, as the header demands.
    unsafe { guard(error, || give_text("json", json, || Ok(object("engine", engine)?.prepared.to_json()))) }
}

/// Frees an engine. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_engine_free(engine: *mut llamapen_engine) {
    // SAFETY: NULL or live and not used again, as the header demands.
    unsafe { free(engine) }
}
