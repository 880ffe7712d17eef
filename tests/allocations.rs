//! A token costs no allocation of ours but its event's. One test: what others allocate would be counted too. What
//! llama.cpp allocates goes past Rust's allocator, and is not counted.

mod support;

use llamapen::{Event, Request, Supervisor};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations per token, over those that a request has whatever its length; and those of its events.
fn per_token(supervisor: &Supervisor, request: &Request) -> (f64, f64) {
    let run = |n: u32| {
        let (mut events, before) = (0, COUNT.load(Ordering::Relaxed));
        for event in supervisor.submit(request.clone().with_max_tokens(n)).unwrap() {
            if let Event::Token(token) = event {
                events += usize::from(!token.text.is_empty());
                if let Some(logprobs) = token.logprobs {
                    let texts = logprobs.top.iter().filter(|top| !top.text.is_empty()).count();
                    events += texts + usize::from(!logprobs.top.is_empty());
                }
            }
        }
        (COUNT.load(Ordering::Relaxed) - before, events)
    };
    run(8);
    let ((few, few_events), (many, many_events)) = (run(50), run(250));
    let per = |many: usize, few: usize| (many as f64 - few as f64) / 200.0;
    (per(many, few), per(many_events, few_events))
}

#[test]
fn a_token_allocates_nothing_but_its_event() {
    let supervisor = support::start(&support::config());
    let request = Request::prompt("Once upon a time").with_ignore_eos(true).with_seed(1).with_temperature(1.0);
    let mut everything = request.clone().with_logprobs(5).with_stop(["never to be seen", "\u{1f999}"]);
    everything = everything.with_logit_bias([(5, 1.0)]);
    (everything.xtc_probability, everything.dry_multiplier, everything.repeat_penalty) = (0.5, 0.8, 1.1);
    let mut mirostat = request.clone();
    mirostat.mirostat = 1;
    for request in [request, everything, mirostat] {
        let (allocations, of_events) = per_token(&supervisor, &request);
        println!("{allocations} allocations per token, {of_events} of them in events");
        // One is the loop's; the rest is room for a text that grows while it is put together. Of a process each message is read:
        // the token's, and those of a turn of its loop.
        let more = if support::in_processes() { 5.0 } else { 1.2 };
        assert!(allocations <= of_events + more, "{allocations} allocations per token, {of_events} in events");
    }
}
