//! Requests and their events.

use super::border::{free, give_text_if_any, guard, object, timeout};
use super::error::llamapen_error;
use super::status::{LLAMAPEN_STATUS_END, LLAMAPEN_STATUS_EVENT, LLAMAPEN_STATUS_OK, LLAMAPEN_STATUS_TIMEOUT};
use crate::error::{ANOTHER_WAITS, Error, Result};
use crate::event::Event;
use crate::event_queue::Next;
use crate::stream::TokenStream;
use crate::sync::Mutex;
use std::ffi::c_char;

/// A worker took the request up: worker, queue_position, prompt_tokens, cached_tokens and seed are in the JSON, and for
/// "echo" the text of the prompt as prompt, with special tokens written out; else null.
pub const LLAMAPEN_EVENT_STARTED: i32 = 1;
/// The next token. For "logprobs", the JSON has {"logprobs": {"logprob", "top": [{"token", "logprob", "text"}, ...]}}:
/// natural logarithms of the softmax of the raw logits, before all sampling parameters, the likeliest first.
pub const LLAMAPEN_EVENT_TOKEN: i32 = 2;
/// The worker failed and the request goes on in another; nothing that was given is taken back. attempt (from 1), tokens_kept
/// and reason are in the JSON.
pub const LLAMAPEN_EVENT_RESTARTED: i32 = 3;
/// The generation is complete. Terminal. Reason ("stop", "length", "stop_string" or "stop_token"), stop_string,
/// stop_token (which one; else null), usage and timings are in the JSON.
pub const LLAMAPEN_EVENT_FINISHED: i32 = 4;
/// The request ended without completing. Terminal.
pub const LLAMAPEN_EVENT_FAILED: i32 = 5;

/// A request and its events. Takes one consumer at a time; cancelling is allowed from any thread.
#[allow(non_camel_case_types)]
pub struct llamapen_request {
    stream: TokenStream,
    /// What the pointers of the last event point to. Locked during a call of next: a second consumer gets BUSY.
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    event: Option<Event>,
    json: String,
}

impl llamapen_request {
    pub(super) fn new(stream: TokenStream) -> Self {
        Self { stream, held: Mutex::default() }
    }
}

/// One event. Set struct_size to sizeof(llamapen_event) before every call. All pointers are valid until the next call of
/// llamapen_request_next on that request, and until it is freed.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct llamapen_event {
    /// Set by the caller: later versions may add fields at the end.
    pub struct_size: usize,
    /// LLAMAPEN_EVENT_*.
    pub kind: i32,
    /// FAILED: why. Otherwise 0.
    pub status: i32,
    /// TOKEN: id in the model's vocabulary. Otherwise -1.
    pub token: i32,
    /// TOKEN: counted from 0. Otherwise 0.
    pub index: u32,
    /// TOKEN: its text, always whole UTF-8; may be empty, may hold NUL, has no NUL at its end.
    /// FINISHED: text that was held back: it might have become a stop string, or its last code point is incomplete.
    /// FAILED: what happened and what to do. Otherwise empty. Never NULL.
    pub text: *const c_char,
    /// Bytes of text.
    pub text_len: usize,
    /// The whole event as JSON, without logits. Ends with NUL.
    pub json: *const c_char,
    /// Bytes of json without the NUL.
    pub json_len: usize,
    /// TOKEN of a request with "logits": the raw logits it was picked from. Otherwise NULL.
    pub logits: *const f32,
    /// Number of logits: one per entry of the vocabulary.
    pub logits_len: usize,
}

/// Smallest struct_size ever: that of the first version.
const EVENT_V1_SIZE: usize = 72;
const _: () = assert!(size_of::<usize>() != 8 || size_of::<llamapen_event>() == EVENT_V1_SIZE);

/// Waits at most timeout_ms (negative: no limit) for the next event.
/// EVENT: *event is filled. TIMEOUT: ask again. END: the terminal event was given before; for ever from then on.
/// Errors: BUSY (another thread waits for this request), FORKED, INVALID_PARAMS.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_request_next(
    request: *const llamapen_request,
    timeout_ms: i64,
    event: *mut llamapen_event,
    error: *mut *mut llamapen_error,
) -> i32 {
    let body = || {
        // SAFETY: NULL or live, as the header demands.
        let request = unsafe { object("request", request) }?;
        if event.is_null() {
            return Err(Error::invalid("event", "is NULL; it must point to a llamapen_event"));
        }
        // SAFETY: not NULL; its first field is there whatever the caller's version, as the header demands.
        let struct_size = unsafe { (&raw const (*event).struct_size).read() };
        if struct_size < EVENT_V1_SIZE {
            let problem = format!("is {struct_size}; set it to sizeof(llamapen_event), at least {EVENT_V1_SIZE}");
            return Err(Error::invalid("event->struct_size", problem));
        }
        // First: in a forked child the lock may be held by a thread that does not exist there, for ever.
        request.stream.check_process()?;
        let Some(mut held) = request.held.try_lock() else { return Err(Error::Busy(ANOTHER_WAITS)) };
        match request.stream.next_event(timeout(timeout_ms))? {
            Next::Timeout => Ok(LLAMAPEN_STATUS_TIMEOUT),
            Next::End => Ok(LLAMAPEN_STATUS_END),
            Next::Event(next) => {
                let filled = held.hold(next, struct_size)?;
                // SAFETY: the caller's struct has struct_size bytes, at least those of version 1; no more are written.
                unsafe { event.write(filled) };
                Ok(LLAMAPEN_STATUS_EVENT)
            }
        }
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, body) }
}

impl Held {
    /// Keeps the event and points into it. The pointers stay valid while `held` is not changed.
    fn hold(&mut self, event: Event, struct_size: usize) -> Result<llamapen_event> {
        self.json = serde_json::to_string(&event).map_err(|e| Error::Internal(e.to_string()))?;
        self.json.push('\0');
        let event = &*self.event.insert(event);
        let (kind, text) = match event {
            Event::Started(_) => (LLAMAPEN_EVENT_STARTED, ""),
            Event::Token(token) => (LLAMAPEN_EVENT_TOKEN, token.text.as_str()),
            Event::Restarted(_) => (LLAMAPEN_EVENT_RESTARTED, ""),
            Event::Finished(finished) => (LLAMAPEN_EVENT_FINISHED, finished.text.as_str()),
            Event::Failed(failed) => (LLAMAPEN_EVENT_FAILED, failed.message.as_str()),
        };
        let mut filled = llamapen_event {
            struct_size,
            kind,
            status: 0,
            token: -1,
            index: 0,
            text: text.as_ptr().cast(),
            text_len: text.len(),
            json: self.json.as_ptr().cast(),
            json_len: self.json.len() - 1,
            logits: std::ptr::null(),
            logits_len: 0,
        };
        match event {
            Event::Token(token) => {
                (filled.token, filled.index) = (token.token, token.index);
                if let Some(logits) = &token.logits {
                    (filled.logits, filled.logits_len) = (logits.as_ptr(), logits.len());
                }
            }
            Event::Failed(failed) => filled.status = failed.status.code(),
            _ => {}
        }
        Ok(filled)
    }
}

/// Ends the request now: the next event is FAILED with CANCELLED, unless it had ended before. Idempotent, any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_request_cancel(
    request: *const llamapen_request,
    error: *mut *mut llamapen_error,
) -> i32 {
    let body = || {
        // SAFETY: NULL or live, as the header demands.
        unsafe { object("request", request) }?.stream.cancel()?;
        Ok(LLAMAPEN_STATUS_OK)
    };
    // SAFETY: NULL or may be written to, as the header demands.
    unsafe { guard(error, body) }
}

/// What ran, with which parameters, how long and how it ended, as JSON: versions, digests, seed, parameters, usage, timings,
/// and "reason" or "status". No text of prompt or answer, only a digest of the input. OK once the request has ended, whether
/// its events were read or not; TIMEOUT and NULL before: ask again. Freed with llamapen_string_free. Any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_request_record_json(
    request: *const llamapen_request,
    json: *mut *mut c_char,
    error: *mut *mut llamapen_error,
) -> i32 {
    let mut ended = true;
    let make = || {
        // SAFETY: NULL or live, as the header demands.
        let record = unsafe { object("request", request) }?.stream.run_record()?;
        ended = record.is_some();
        Ok(record.map(|record| record.to_json()))
    };
    // SAFETY: NULL or may be written to, as the header demands.
    match unsafe { guard(error, || give_text_if_any("json", json, make)) } {
        LLAMAPEN_STATUS_OK if !ended => LLAMAPEN_STATUS_TIMEOUT,
        status => status,
    }
}

/// Frees a request, and cancels it if it has not ended; before or after its supervisor. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn llamapen_request_free(request: *mut llamapen_request) {
    // SAFETY: NULL or live and not used again, as the header demands.
    unsafe { free(request) }
}
