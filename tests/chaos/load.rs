//! Requests whose answers are known.

use crate::support::words;
use llamapen::Request;

/// Prompts of one piece each, answers of 12 to 27 tokens: greedy and seeded, with penalties, mirostat and stop strings.
pub fn requests(n: usize) -> Vec<Request> {
    (0..n).map(request).collect()
}

fn request(i: usize) -> Request {
    let prompt = words(i as i32, 8 + i * 5 % 50);
    let max_tokens = 12 + (i as u32 * 7) % 16;
    let mut request = Request::tokens(prompt).with_max_tokens(max_tokens).with_ignore_eos(true).with_seed(i as u64);
    // As often as it takes: each restart hits its neighbours, too.
    request = request.with_max_resumes(1000);
    match i % 4 {
        0 => request.with_temperature(0.0),
        1 => request.with_temperature(1.1).with_stop(["never to be seen"]),
        2 => {
            (request.dry_multiplier, request.frequency_penalty, request.xtc_probability) = (0.8, 0.3, 0.2);
            request.with_temperature(0.9).with_repeat_penalty(1.2)
        }
        _ => {
            request.mirostat = 2;
            request
        }
    }
}
