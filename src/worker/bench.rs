//! What the benchmarks of the loop's parts measure, all of it pure.

use super::prefix::{Candidate, Held, choose};
use super::stop::release;
use super::utf8::Utf8Stream;

/// Assembles tokens to a text, and says how long it is.
pub fn utf8(tokens: &[Vec<u8>]) -> usize {
    let (mut stream, mut text) = (Utf8Stream::default(), String::new());
    for token in tokens {
        stream.bytes().extend_from_slice(token);
        stream.take(&mut text);
    }
    text.len() + stream.finish().len()
}

/// Stop strings that are looked for in a text that comes in pieces.
pub struct Stops(Vec<String>);

impl Stops {
    /// None of them is empty.
    pub fn new(stops: &[&str]) -> Self {
        Self(stops.iter().map(|&stop| stop.into()).collect())
    }

    /// How many bytes were given before one was complete, or in all.
    pub fn given(&self, pieces: &[&str]) -> usize {
        let (mut held, mut given) = (String::new(), 0);
        for piece in pieces {
            let old = held.len();
            held.push_str(piece);
            let released = release(&self.0, &mut held, old);
            given += released.text.len();
            if released.stop.is_some() {
                break;
            }
        }
        given
    }
}

/// Slots that hold texts which begin alike.
pub struct Prefixes(Vec<Held>);

impl Prefixes {
    /// So many slots with so many tokens each, of which each slot differs in the last ones.
    pub fn new(slots: i32, tokens: i32) -> Self {
        let text = |slot: i32| (0..tokens).map(|at| if at + 8 < tokens { at } else { -slot - 1 }).collect();
        Self((0..slots).map(|slot| Held { tokens: text(slot), in_pieces: 0, gap: None }).collect())
    }

    /// Finds the slot of a prompt; false if there is none.
    pub fn choose(&self, prompt: &[i32]) -> bool {
        let candidate = |(at, held): (usize, &Held)| Candidate {
            free: true,
            held: held.tokens.len(),
            usable: held.usable(prompt, true, None),
            used_at: at as u64,
        };
        let candidates: Vec<_> = self.0.iter().enumerate().map(candidate).collect();
        choose(&candidates, 0).is_some()
    }
}
