//! Supervisors.

use super::border::{
    free, give, give_text, give_text_if_any, give_text_if_wanted, guard, object, text, timeout, without_nul,
};
use super::engine::llamapen_engine;
use super::error::llamapen_error;
use super::request::llamapen_request;
use super::status::{LLAMAPEN_STATUS_OK, LLAMAPEN_STATUS_TIMEOUT};
use crate::config::SupervisorConfig;
use crate::request::Request;
use crate::supervisor::Supervisor;
use std::ffi::c_char;

/// Runs one prepared engine: loads, decodes, restarts. May be used by several threads at a time.
#[allow(non_camel_case_types)]
pub struct llamapen_supervisor {
    pub(super) supervisor: Supervisor,
}

/// Starts to load the model and returns at once. Requests may be submitted right away.
///
/// config: JSON, or NULL and 0 for the defaults. Optional: "queue_capacity" (256), "queue_full" ("reject"; or
/// "drop_oldest_batch": the batch request that has waited longest ends with QUEUE_FULL_DROP_LRU, if one waits),
/// "stall_limit_ms" (30000), "max_stall_ms" (100): longest time, 10 to 60000, that running streams wait for a piece of
/// another request's prompt, "idle_unload_ms" (0, never): after so long without a request, up to 86400000, memory is given back
/// as by llamapen_supervisor_unload, "handoff_dir" (an existing directory for a file that says what is ready, see
/// llamapen_supervisor_handoff_json). Unknown keys are refused by name.
///
/// Restarts of workers that failed, times in milliseconds: the first one of a worker that had been ready is immediate, the
/// next waits "backoff_initial_ms" (1000), each further one twice as long up to "backoff_max_ms" (60000), give or take
/// "backoff_jitter_percent" (10; 0 to 50), "backoff_device_factor" (2; 1 to 16) times as long after a fault of a device; all
/// is forgotten once it was ready for "backoff_reset_ms" (300000). A worker's circuit breaker opens after
/// "breaker_failures" (5) in a row, or when "max_restarts" (10) within "restart_window_ms" (60000), over all workers, are used
/// up. Then the worker is left alone for "breaker_open_ms" (300000) and tried once. Ready for "breaker_stable_ms" (60000),
/// its breaker closes; failing before, it opens for twice as long, up to "breaker_open_max_ms" (3600000). While all
/// workers are out of service that way, the state is CIRCUIT_OPEN: what waits fails with POOL_UNAVAILABLE (retriable,
/// with the time until the next attempt), and so does llamapen_submit.
///
/// "contain_faults" (true): handlers for SIGSEGV, SIGBUS, SIGFPE and SIGILL are installed once per process, which contain what
/// the engine's own threads raise in its code and hand everything else on to those that were there before. "taint": what
/// follows a contained memory fault of a worker that is a thread: "escalate_to_process" (from then on workers are child
/// processes, as with "isolation": "process"; the default where one can be started), "stop" (the supervisor, never the host;
/// the default elsewhere) or "continue". A worker that does not turn for "stall_limit_ms" is replaced; a load without progress
/// for "load_stall_limit_ms" (600000) is ended.
///
/// "child": how workers that are child processes are run: {"sandbox" ("off"; "strict": it opens no file but the model's, and
/// reaches no network, starts no program and sees no other process, by Landlock and seccomp where the kernel has them; refused
/// where workers are threads), "memory_limit_bytes" (none; at least 16777216), "cpus" (numbers of those that it may run on; those of the host), "nice" (added
/// to the host's, -20 to 19; 0), "worker" (path of the llamapen-worker to start; it is looked for), "pid_dir" and "log_dir"
/// (existing directories for files with the processes' numbers, and with what they print; none), "stop_grace_ms" (how long one
/// that was told to end has for it, 0 to 600000; 5000)}. Where none can be started, because llamapen is linked statically and there
/// is no llamapen-worker, an engine with "isolation": "process" is refused with UNSUPPORTED and what to do.
///
/// Requests of a worker that died go on in another, see "max_resumes" of llamapen_submit. "snapshot_tokens" (32, up to 65536;
/// 0: never): tokens after which a request's state is copied into the host's memory for that, in 2 % of a worker's time at
/// most, within "snapshot_bytes" (134217728) in all and one more per worker. "quarantine_ms" (600000, up to 86400000; 0: nobody is blamed for a crash):
/// how long a request that workers died of is refused.
/// Errors: INVALID_PARAMS, UNSUPPORTED, STALE_ENGINE, MODEL_NOT_FOUND, and as for llamapen_prepare where this machine does not allow it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_supervisor_start(
    engine: *const llamapen_engine,
    config: *const c_char,
    config_len: usize,
    supervisor: *mut *mut llamapen_supervisor,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: pointer and length belong together, the engine is NULL or live, as the header demands.
        let (config, engine) = unsafe { (text("config", config, config_len)?, object("engine", engine)?) };
        let config = match config.is_empty() {
            true => SupervisorConfig::default(),
            false => SupervisorConfig::from_json(config)?,
        };
        Ok(llamapen_supervisor { supervisor: Supervisor::start(engine.prepared.clone(), config)? })
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give("supervisor", supervisor, make)) }
}

/// Waits until a worker has decoded its first token: OK, or TIMEOUT after timeout_ms (negative: no limit).
/// The states BACKOFF and CIRCUIT_OPEN pass, and are waited for.
/// Errors: LOAD_FAILED, OUT_OF_MEMORY, CANCELLED (the load was), POOL_UNAVAILABLE (stopped).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_supervisor_wait_ready(
    supervisor: *const llamapen_supervisor,
    timeout_ms: i64,
    error: *mut *mut llamapen_error,
) -> i32 {
    let body = || {
        // SAFETY: NULL or live, as the header demands.
        let ready = unsafe { object("supervisor", supervisor) }?.supervisor.wait_ready(timeout(timeout_ms))?;
        Ok(if ready { LLAMAPEN_STATUS_OK } else { LLAMAPEN_STATUS_TIMEOUT })
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, body) }
}

/// Ends a load that is in progress; the supervisor then has failed with CANCELLED. Without one, does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_supervisor_cancel_load(
    supervisor: *const llamapen_supervisor,
    error: *mut *mut llamapen_error,
) -> i32 {
    let body = || {
        // SAFETY: NULL or live, as the header demands.
        unsafe { object("supervisor", supervisor) }?.supervisor.cancel_load()?;
        Ok(LLAMAPEN_STATUS_OK)
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, body) }
}

/// Closes the circuit breakers of all workers and forgets the failures and restarts that were counted. Workers that wait for
/// a restart are started at once, and requests are accepted when this returns.
/// Errors: POOL_UNAVAILABLE (stopped, or failed for good).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_supervisor_reset_breaker(
    supervisor: *const llamapen_supervisor,
    error: *mut *mut llamapen_error,
) -> i32 {
    let body = || {
        // SAFETY: NULL or live, as the header demands.
        unsafe { object("supervisor", supervisor) }?.supervisor.reset_breaker()?;
        Ok(LLAMAPEN_STATUS_OK)
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, body) }
}

/// State, "uptime_ms", "engine_version", "engine_digest", "device_mask", "slots" and "slots_free", "compute_threads" (of a worker, now), load progress (0 to 1),
/// queue depth (also by priority), leases, "reloading" (a reload is in progress; all else is
/// of the engine that requests go to), workers, the last error and its status as JSON. Waits for no decode. Freed with llamapen_string_free.
///
/// "state": STARTING, READY (all workers are), DEGRADED (some are), BACKOFF (none is, they are restarted), CIRCUIT_OPEN (none
/// is, all failed too often and are left alone for a while), UNLOADING, UNLOADED (memory was given back, a request has it
/// loaded again), DRAINING, FAILED (the start did, the first or one after UNLOADED), STOPPED. Of each worker among
/// others "heartbeat_ms" (since its loop last turned), "memory" (by place, such as "host" and "GPU0": "planned_bytes" and
/// "allocated_bytes" of cache and compute buffers, "weights_planned_bytes", and "weights" by kind in bytes), "breaker" (CLOSED, OPEN, HALF_OPEN: on trial) and "last_crash": null, or
/// {"reason" (PANIC, CPP_EXCEPTION, ABORT, SIGNAL, STALL, HOST_OUT_OF_MEMORY, KILLED, EXITED, PROTOCOL, LOAD_FAILED, ENGINE_ERROR,
/// CUDA_ERROR, DEVICE_OUT_OF_MEMORY;
/// there may be more), "message", "at_ms" since the start, "exit": null, or of a child process {"pid", "how", "rss_bytes",
/// "output" (the last lines that it printed)}}.
///
/// "load_phases": null, or where the time of the load went that workers share who are threads: {"header_ms", "mapping_ms" (a file that
/// is not in the page cache is read here, if "use_mmap"), "weights_ms" (copied, repacked, uploaded)}. "start_phases" of each worker:
/// null until it is ready, then {"load": null, or the same of a process, which loads for itself, "context_ms", "warm_up_ms"}.
///
/// "calibration": null, or with "tuning": "auto" and several workers {"state" (PENDING, RUNNING, DONE, GIVEN_UP), "from_cache",
/// "rates": [{"workers" side by side, "streams" of each, "step_us" until each has a token}], "spread": over how many workers 1, 2, 3
/// and more requests are spread, empty until it is done}.
///
/// "isolation": where workers are started now ("thread", "process"), "tainted": whether a memory fault was contained, "taint":
/// what follows one. "process" of each worker: null, or once it has loaded {"pid", "rss_bytes", "confinement": {"landlock" and "seccomp"
/// ("off", {"on": form} or {"missing": why}), "no_new_privs", "dumpable", "memory", "cpus", "nice", "oom_score_adj"}}.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_supervisor_health_json(
    supervisor: *const llamapen_supervisor,
    json: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: NULL or live, as the header demands.
        let health = unsafe { object("supervisor", supervisor) }?.supervisor.health()?;
        Ok(serde_json::to_string(&health).expect("plain data"))
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give_text("json", json, make)) }
}

/// What was counted since the start, as JSON: "requests" ("accepted_total", "rejected_total" and "failed_total" by status,
/// "finished_total" by reason, "cancelled_total", "resumed_total"), "queue_depth", "queue_depth_by_priority",
/// "leases", "snapshot_bytes", "load_ms", "load_phases" (and "start_phases" of workers, as in the health), "vram_used_bytes" (0 where no GPU computes),
/// "last_error" and "last_error_status", and per worker tokens, slots, restarts, crashes by reason, memory and histograms of
/// times and batch sizes. Waits for no decode. Freed with llamapen_string_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_supervisor_metrics_json(
    supervisor: *const llamapen_supervisor,
    json: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: NULL or live, as the header demands.
        let metrics = unsafe { object("supervisor", supervisor) }?.supervisor.metrics()?;
        Ok(serde_json::to_string(&metrics).expect("plain data"))
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give_text("json", json, make)) }
}

/// The same in Prometheus' text format, version 0.0.4, to be served as "text/plain; version=0.0.4". Of the last error, it
/// has the status only. Freed with llamapen_string_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_supervisor_metrics_text(
    supervisor: *const llamapen_supervisor,
    text: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: NULL or live, as the header demands.
        let metrics = unsafe { object("supervisor", supervisor) }?.supervisor.metrics()?;
        // A name in it can hold anything.
        Ok(without_nul(&metrics.to_prometheus()))
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give_text("text", text, make)) }
}

/// What is ready, for those who are to bind to it, as JSON: "schema" (1), "pool_id", "replica_id", "pid", versions, digests,
/// "model_id", "model_files", "device_mask", "workers", "slots", "flags", "worker" and "ready_at_ms" (since 1970). Made when a
/// worker becomes ready, before llamapen_supervisor_wait_ready returns; NULL until then, and once the supervisor was stopped
/// or gave up. With "handoff_dir" in the configuration, the same lies there in llamapen-POOL-REPLICA.json as long, written
/// whole or not at all. After a kill it stays, with a pid that is gone. Freed with llamapen_string_free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_supervisor_handoff_json(
    supervisor: *const llamapen_supervisor,
    json: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: NULL or live, as the header demands.
        let record = unsafe { object("supervisor", supervisor) }?.supervisor.handoff()?;
        Ok(record.map(|record| record.to_json()))
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give_text_if_any("json", json, make)) }
}

/// Puts another engine in the place of the one that runs. Returns when it runs, and the old one is gone; nobody's request is
/// lost on the way. One that would run the same files in the same way changes nothing.
///
/// Where memory allows, the new engine is loaded beside the old one, which serves until the new one has decoded a token; then
/// requests go to the new one, and the old one finishes what it has accepted. Does the new one fail, or is it not ready in
/// time, the old one goes on as if nothing had happened. Where memory does not allow that, the old one finishes first.
/// Requests that come meanwhile must be such as both would accept, and wait, with their limits, for whichever comes up: if
/// the new one does not, the old one is loaded again, and is ready when this returns with the error.
///
/// timeout_ms (negative: no limit) is for each of two steps: for the new engine to become ready, and for the old one to
/// finish; what it still has then ends with DRAINING. Leases stay, and so do the counts of requests; those of workers begin
/// anew. llamapen_supervisor_drain and llamapen_supervisor_stop end a reload. Health has "reloading" meanwhile.
///
/// json: NULL, or where the report goes: {"changed", "beside", "duration_ms", "requests_failed"}. Freed with
/// llamapen_string_free.
/// Errors: STALE_ENGINE, INVALID_PARAMS ("handoff_dir" is gone): nothing was done. BUSY (another reload is in progress),
/// DRAINING, POOL_UNAVAILABLE (stopped, or failed for good), UNSUPPORTED (on a thread of llamapen). Of the new engine: LOAD_FAILED,
/// OUT_OF_MEMORY, CANCELLED (by llamapen_supervisor_cancel_load), POOL_UNREADY (not ready in time); the message says that the
/// old one runs, or why it does not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_supervisor_reload(
    supervisor: *const llamapen_supervisor,
    engine: *const llamapen_engine,
    timeout_ms: i64,
    json: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    let reload = || {
        // SAFETY: each is NULL or live, as the header demands.
        let (supervisor, engine) = unsafe { (object("supervisor", supervisor)?, object("engine", engine)?) };
        let report = supervisor.supervisor.reload(engine.prepared.clone(), timeout(timeout_ms))?;
        Ok(serde_json::to_string(&report).expect("plain data"))
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give_text_if_wanted("json", json, reload)) }
}

/// Gives memory back: weights and contexts are freed as soon as no request waits or runs. Takes nothing from anybody: requests
/// go on being accepted, what waits and runs finishes first, and a request that comes afterwards has it loaded again and
/// waits in the queue, with its limits. The state is UNLOADED until then; the handoff record stays.
///
/// OK when it is unloaded, or was already; TIMEOUT when there was no such moment within timeout_ms (negative: no limit):
/// then all stays as it is.
/// Errors: DRAINING, POOL_UNAVAILABLE (stopped, or failed for good), UNSUPPORTED (on a thread of llamapen).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_supervisor_unload(
    supervisor: *const llamapen_supervisor,
    timeout_ms: i64,
    error: *mut *mut llamapen_error,
) -> i32 {
    let body = || {
        // SAFETY: NULL or live, as the header demands.
        let unloaded = unsafe { object("supervisor", supervisor) }?.supervisor.unload(timeout(timeout_ms))?;
        Ok(if unloaded { LLAMAPEN_STATUS_OK } else { LLAMAPEN_STATUS_TIMEOUT })
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, body) }
}

/// Begins to load again what was unloaded, and returns at once; llamapen_supervisor_wait_ready waits. Does nothing if it is
/// loaded. If it cannot be loaded, the state is FAILED, as after a first start, and what waits ends with why.
/// Errors: DRAINING, POOL_UNAVAILABLE (stopped, or failed for good).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_supervisor_wake(
    supervisor: *const llamapen_supervisor,
    error: *mut *mut llamapen_error,
) -> i32 {
    let body = || {
        // SAFETY: NULL or live, as the header demands.
        unsafe { object("supervisor", supervisor) }?.supervisor.wake()?;
        Ok(LLAMAPEN_STATUS_OK)
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, body) }
}

/// Ends in order: from now on neither leases nor requests are taken (DRAINING), except requests of those who have a lease;
/// what waits or runs finishes, leases are given back, and then the supervisor stops. What is left after timeout_ms
/// (negative: no limit) ends with DRAINING, and the supervisor stops then. Returns when it is stopped; health says DRAINING
/// meanwhile. Any thread; of several calls the earliest deadline counts, and all give the same.
///
/// json: NULL, or where the report goes: {"forced", "duration_ms", "leases_left", "requests_failed"}. Freed with
/// llamapen_string_free.
/// Errors: UNSUPPORTED (on a thread of llamapen, which would wait for itself).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_supervisor_drain(
    supervisor: *const llamapen_supervisor,
    timeout_ms: i64,
    json: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    let drain = || {
        // SAFETY: NULL or live, as the header demands.
        let report = unsafe { object("supervisor", supervisor) }?.supervisor.drain(timeout(timeout_ms))?;
        Ok(serde_json::to_string(&report).expect("plain data"))
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give_text_if_wanted("json", json, drain)) }
}

/// Tries out what a host relies on, within timeout_ms in all (negative: no limit), and a tenth of a second for "log".
/// json: {"passed", "steps": [{"name", "status" ("pass", "fail", "skip": one before it failed), "message", "ms"}]}; to be
/// freed with llamapen_string_free. The steps:
/// "load" (a worker is ready), "decode" (a real decode gives a token whose logits are finite), "cancel" (ends a request and
/// frees its slot), "log" (a line comes to the tracing subscriber; C hosts have none, which the step says and passes),
/// "metrics" (have counted that: exactly, where nobody else has requests). It runs two short requests, which wait for a
/// slot like any other. OK also where a step failed.
/// Errors: UNSUPPORTED (on a thread of llamapen, which it needs itself).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_supervisor_self_test(
    supervisor: *const llamapen_supervisor,
    timeout_ms: i64,
    json: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: NULL or live, as the header demands.
        let report = unsafe { object("supervisor", supervisor) }?.supervisor.self_test(timeout(timeout_ms))?;
        Ok(serde_json::to_string(&report).expect("plain data"))
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give_text("json", json, make)) }
}

/// Ends all requests with DRAINING, stops all threads and frees the model; returns when that is done. Idempotent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_supervisor_stop(
    supervisor: *const llamapen_supervisor,
    error: *mut *mut llamapen_error,
) -> i32 {
    let body = || {
        // SAFETY: NULL or live, as the header demands.
        unsafe { object("supervisor", supervisor) }?.supervisor.stop()?;
        Ok(LLAMAPEN_STATUS_OK)
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, body) }
}

/// Stops and frees a supervisor. Its requests stay valid and have ended. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_supervisor_free(supervisor: *mut llamapen_supervisor) {
    // SAFETY: NULL or live and not used again, as the header demands.
    unsafe { free(supervisor) }
}

/// Queues a request. After OK it ends with exactly one terminal event.
///
/// request: JSON with exactly one of "prompt" (text), "messages" ([{"role", "content"}], rendered in the
/// format that llama.cpp recognises in the chat template of the model's file) and "tokens" (ids). Unknown keys are
/// refused by name. Optional, with defaults:
///
/// Ends: "max_tokens" (what the context holds), "stop" (texts, at most 16 of 1 to 256 bytes: they are not given, and text
/// that may begin one is held back until that is decided), "stop_tokens" (ids, at most 256), "ignore_eos" (false).
///
/// Past the end of the context: "context_shift" (false; true needs "max_tokens": half of the tokens behind the first "n_keep"
/// (0) are taken out whenever it is full, "shifted_tokens" of "usage" in all. Not with every model and KV cache).
///
/// Speed: "draft_max" (tokens to guess ahead, at most the engine's; the engine's). "usage" of the FINISHED event has the
/// "draft_tokens" that were guessed and the "draft_accepted" that came true.
///
/// Sampling, in the order of use: "logit_bias" ([[id, bias], ...] or {"id": bias}, -1000 to 1000, false: never),
/// "repeat_penalty" (1), "frequency_penalty" (0), "presence_penalty" (0), "penalty_last_n" (64), "dry_multiplier" (0, off),
/// "dry_base" (1.75), "dry_allowed_length" (2), "dry_penalty_last_n" (64), "dry_sequence_breakers" (["\n", ":", "\"", "*"]),
/// "top_n_sigma" (-1, off), "top_k" (40), "typical_p" (1, off), "top_p" (0.95), "min_p" (0.05), "xtc_probability" (0, off),
/// "xtc_threshold" (0.1), "min_keep" (0), "temperature" (0.8; 0 is greedy), "dynatemp_range" (0, off),
/// "dynatemp_exponent" (1). Or "mirostat" (0, off; 1 or 2) with "mirostat_tau" (5) and "mirostat_eta" (0.1): beside it only
/// "logit_bias" and "temperature" count. "seed" (drawn): equal seeds give equal texts.
///
/// What is reported: "logprobs" (n of 0 to 20: the log probability of each token and of the n likeliest, from the raw
/// logits), "logits" (false), "echo" (false: the prompt's text in STARTED).
///
/// Queue: "priority" ("interactive"; or "batch": taken up when no interactive request waits, and once after every 8
/// interactive ones in a row that were taken before it).
///
/// Limits: "timeout_ms" (from submit until the end), "first_token_timeout_ms" (from submit) and "inter_token_timeout_ms"
/// (between two tokens), 1 to 86400000, after which the request ends with FAILED: DEADLINE_UNMET if no worker had taken it
/// up, else DECODE_TIMEOUT.
///
/// Crashes: "max_resumes" (3, 0 to 1000): how often it may go on in another worker when its own dies, with RESTARTED and then
/// the next token; bit by bit as it would have gone on if the engine is "deterministic". 0: it fails with WORKER_RESET. One
/// that workers die of fails with POISONED_REQUEST, and is refused with it for the "quarantine_ms" of the supervisor.
/// Errors: POISONED_REQUEST, INVALID_PARAMS, CONTEXT_OVERFLOW, QUEUE_FULL, DRAINING, POOL_UNAVAILABLE, UNSUPPORTED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_submit(
    supervisor: *const llamapen_supervisor,
    request: *const c_char,
    request_len: usize,
    handle: *mut *mut llamapen_request,
    error: *mut *mut llamapen_error,
) -> i32 {
    let make = || {
        // SAFETY: pointer and length belong together, the supervisor is NULL or live, as the header demands.
        let (json, supervisor) = unsafe { (text("request", request, request_len)?, object("supervisor", supervisor)?) };
        Ok(llamapen_request::new(supervisor.supervisor.submit(Request::from_json(json)?)?))
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, || give("handle", handle, make)) }
}
