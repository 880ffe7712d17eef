//! Limits in time, on the real model: who exceeds one ends, once, and gives back what it had.

mod support;

use llamapen::{Event, Next, Request, Status, Supervisor, SupervisorConfig};
use support::{LONG, read};

/// Runs on until something ends it.
fn endless() -> Request {
    Request::prompt("Once").with_ignore_eos(true)
}

fn one_slot() -> Supervisor {
    support::start_with(
        &support::config().with_n_ctx(4096).with_slots(1),
        SupervisorConfig::default().with_queue_capacity(1),
    )
}

/// The only slot is free again, and works.
fn runs_the_next(supervisor: &Supervisor) {
    let limits = Request::prompt("Once").with_max_tokens(3).with_ignore_eos(true).with_timeout_ms(86_400_000);
    let next = limits.with_first_token_timeout_ms(86_400_000).with_inter_token_timeout_ms(86_400_000);
    assert_eq!(read(supervisor.submit(next).unwrap()).unwrap().tokens.len(), 3);
    support::eventually("the slot is free", || supervisor.health().unwrap().workers[0].active == 0);
}

#[test]
fn a_running_request_ends_at_its_total_limit_and_frees_its_slot() {
    let supervisor = one_slot();
    let failed = read(supervisor.submit(endless().with_timeout_ms(400)).unwrap()).unwrap_err();
    assert_eq!(failed.status, Status::DecodeTimeout);
    assert!(failed.retriable && failed.message.starts_with("timeout_ms: 400 ms"), "{failed:?}");
    runs_the_next(&supervisor);
}

#[test]
fn a_waiting_request_ends_at_its_limit_and_gives_its_place_back() {
    let supervisor = one_slot();
    let running = supervisor.submit(endless()).unwrap();
    support::eventually("it runs", || supervisor.health().unwrap().workers[0].active == 1);
    for request in [endless().with_timeout_ms(100), endless().with_first_token_timeout_ms(100)] {
        // The queue has one place.
        let failed = read(supervisor.submit(request).unwrap()).unwrap_err();
        assert_eq!(failed.status, Status::DeadlineUnmet);
        assert!(failed.retriable && failed.message.contains("timeout_ms: 100 ms"), "{failed:?}");
        support::eventually("its place is free", || supervisor.health().unwrap().queue_depth == 0);
    }
    running.cancel().unwrap();
    assert_eq!(read(running).unwrap_err().status, Status::Cancelled, "the limits of others did not end it");
    runs_the_next(&supervisor);
}

#[test]
fn a_prompt_that_takes_too_long_ends_before_its_first_token() {
    let supervisor = one_slot();
    let prompt = Request::tokens(vec![5; 4000]).with_first_token_timeout_ms(300);
    let stream = supervisor.submit(prompt).unwrap();
    let Next::Event(Event::Started(_)) = stream.next_event(Some(LONG)).unwrap() else { panic!("it starts") };
    let Next::Event(Event::Failed(failed)) = stream.next_event(Some(LONG)).unwrap() else { panic!("it fails") };
    assert_eq!(failed.status, Status::DecodeTimeout);
    assert!(failed.message.starts_with("first_token_timeout_ms:"), "{failed:?}");
    assert_eq!(stream.next_event(None).unwrap(), Next::End);
    runs_the_next(&supervisor);
}

#[test]
fn a_token_that_takes_too_long_ends_the_request() {
    let supervisor = one_slot();
    // No decode takes less than a millisecond. The limit that comes first in time is not the one that was due at submit.
    let slow = endless().with_max_tokens(300).with_first_token_timeout_ms(600_000).with_inter_token_timeout_ms(1);
    let stream = supervisor.submit(slow).unwrap();
    let events: Vec<_> = stream.collect();
    let Some(Event::Failed(failed)) = events.last() else { panic!("{:?}", events.last()) };
    assert_eq!(failed.status, Status::DecodeTimeout);
    assert!(failed.message.starts_with("inter_token_timeout_ms: 1 ms"), "{failed:?}");
    assert!(matches!(events[1], Event::Token(_)), "what was generated is given: {:?}", events[1]);
    runs_the_next(&supervisor);
}
