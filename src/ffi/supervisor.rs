//! Supervisors.

use super::border::{free, give, give_text, guard, object, text, timeout, without_nul};
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
    supervisor: Supervisor,
}

/// Starts to load the model and returns at once. Requests may be submitted right away.
///
/// config: JSON, or NULL and 0 for the defaults. Optional: "queue_capacity" (256), "max_restarts" (10) within
/// "restart_window_ms" (60000), "stall_limit_ms" (30000), "max_stall_ms" (100): longest time, 10 to 60000, that running streams
/// wait for a piece of another request's prompt. "contain_faults" (true): handlers for SIGSEGV, SIGBUS, SIGFPE and SIGILL are
/// installed once per process, which contain what the engine's own threads raise in its code and hand everything else on to
/// those that were there before. "taint": what follows a contained memory fault, "stop" (the supervisor, never the host;
/// default) or "continue". A worker that does not turn for "stall_limit_ms" is replaced. Unknown keys are refused by name.
/// Errors: INVALID_PARAMS, STALE_ENGINE, MODEL_NOT_FOUND, and as for llamapen_prepare where this machine does not allow it.
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

/// State, load progress (0 to 1), queue depth, workers, the last error and its status as JSON. Waits for no decode. Freed
/// with llamapen_string_free.
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
/// "finished_total" by reason, "cancelled_total"), "queue_depth", "load_ms", "vram_used_bytes" (0 where no GPU computes),
/// "last_error" and "last_error_status", and per worker tokens, slots, restarts, memory and histograms of times and batch
/// sizes. Waits for no decode. Freed with llamapen_string_free.
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
/// Limits: "timeout_ms" (from submit until the end), "first_token_timeout_ms" (from submit) and "inter_token_timeout_ms"
/// (between two tokens), 1 to 86400000, after which the request ends with FAILED: DEADLINE_UNMET if no worker had taken it
/// up, else DECODE_TIMEOUT.
/// Errors: INVALID_PARAMS, CONTEXT_OVERFLOW, QUEUE_FULL, POOL_UNAVAILABLE, UNSUPPORTED.
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
