//! Guesses at the next tokens from the text itself, which one decode can then check together: prompt lookup decoding
//! (Saxena, 2023), the n-gram speculation of vLLM and llama.cpp. A guess costs time or saves it, and changes nothing else.

/// A place in the text serves if this many tokens before it are the last ones of the text. Two are often chance.
const SHORTEST_MATCH: usize = 3;
/// Longer matches are no better founded.
const LONGEST_MATCH: usize = 8;
/// Length of a guess that is made to see whether guesses come true again.
const TRIAL: usize = 2;
/// Longest pause while guesses are not worth their time, in tokens.
const LONGEST_PAUSE: u32 = 64;
/// What is known of guesses before the first: as if four tokens had come true and one had not.
const BEFORE: (f32, f32) = (4.0, 1.0);
/// How much of what is known is still worth after another guess.
const MEMORY: f32 = 0.85;

/// Guesses for one request.
#[derive(Debug)]
pub(super) struct Drafter {
    /// Most tokens of a guess; 0: none are made.
    most: usize,
    /// What checking one more token takes, in times of a decode of one.
    cost: f32,
    /// Tokens that came true, and that did not, the older ones counted less.
    came: f32,
    failed: f32,
    /// Tokens that are still to be generated without a guess, and the length of the next pause.
    pause: u32,
    next_pause: u32,
    draft: Vec<i32>,
    /// Tokens of it that came true so far.
    right: usize,
    /// Tokens of all guesses, and how many of them came true.
    total: u32,
    total_right: u32,
}

impl Drafter {
    pub(super) fn new(most: u32, cost: f32) -> Self {
        let most = most as usize;
        let (came, failed) = BEFORE;
        let draft = Vec::with_capacity(most);
        Self { most, cost, came, failed, pause: 0, next_pause: 1, draft, right: 0, total: 0, total_right: 0 }
    }

    /// The length of a guess that gives most tokens in the time that checking it takes; 0: none is worth that.
    fn worth(&self) -> usize {
        let chance = self.came / (self.came + self.failed);
        let (mut best, mut most, mut expected, mut all) = (0, 1.0, 1.0, 1.0);
        for length in 1..=self.most {
            // A token counts only if all before it came true.
            all *= chance;
            expected += all;
            let gain = expected / (1.0 + self.cost * length as f32);
            if gain > most {
                (best, most) = (length, gain);
            }
        }
        best
    }

    /// The guess that is being checked.
    pub(super) fn draft(&self) -> &[i32] {
        &self.draft
    }

    /// How many of its tokens came true so far.
    pub(super) fn right(&self) -> usize {
        self.right
    }

    /// Tokens of all guesses, and how many of them came true.
    pub(super) fn totals(&self) -> (u32, u32) {
        (self.total, self.total_right)
    }

    /// Takes the guess back.
    pub(super) fn drop_draft(&mut self) {
        self.total -= count(&self.draft);
        self.draft.clear();
    }

    /// Guesses what follows `text` and then `last`: what followed the last time, at most `room` tokens.
    pub(super) fn propose(&mut self, text: &[i32], last: i32, room: usize) {
        self.draft.clear();
        self.right = 0;
        if self.pause > 0 {
            self.pause -= 1;
            return;
        }
        let worth = self.worth();
        // Not worth it by what is known: seen again after each pause.
        let most = if worth == 0 { TRIAL } else { worth }.min(room).min(self.most);
        if most == 0 {
            return;
        }
        let Some(after) = follows(text, last) else { return };
        for place in after..after + most {
            // Past the end of the text it goes on with itself: what repeats is guessed to repeat again.
            let token = match place.checked_sub(text.len()) {
                None => text[place],
                Some(0) => last,
                Some(beyond) => self.draft[beyond - 1],
            };
            self.draft.push(token);
        }
        self.total += count(&self.draft);
    }

    /// The next token of the text.
    pub(super) fn came(&mut self, token: i32) {
        if self.draft.get(self.right) == Some(&token) {
            self.right += 1;
            self.total_right += 1;
        }
    }

    /// Learns from the guess, after as many tokens of the text as the guess decides.
    pub(super) fn judge(&mut self) {
        if self.draft.is_empty() {
            return;
        }
        self.came = self.came * MEMORY + self.right as f32;
        self.failed = self.failed * MEMORY + f32::from(self.right < self.draft.len());
        if self.worth() == 0 {
            self.pause = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(LONGEST_PAUSE);
        } else {
            self.next_pause = 1;
        }
    }
}

fn count(draft: &[i32]) -> u32 {
    u32::try_from(draft.len()).expect("at most draft_max")
}

/// Where in `text` that begins which followed its end and `last` before: after the longest match, of equals the latest.
fn follows(text: &[i32], last: i32) -> Option<usize> {
    let mut best = None;
    let mut longest = SHORTEST_MATCH - 1;
    for (place, _) in text.iter().enumerate().rev().filter(|(_, token)| **token == last) {
        let before = text[..place].iter().rev().zip(text.iter().rev());
        let length = 1 + before.take(LONGEST_MATCH - 1).take_while(|(a, b)| a == b).count();
        if length > longest {
            (best, longest) = (Some(place + 1), length);
            if length == LONGEST_MATCH {
                break;
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposed(drafter: &mut Drafter, text: &[i32], last: i32, room: usize) -> Vec<i32> {
        drafter.propose(text, last, room);
        drafter.draft().to_vec()
    }

    #[test]
    fn what_followed_before_is_guessed() {
        // Checking costs next to nothing: guesses are as long as they may be.
        let mut drafter = Drafter::new(4, 0.01);
        assert_eq!(proposed(&mut drafter, &[1, 2, 3, 4, 5, 6, 7, 9, 1, 2], 3, 9), [4, 5, 6, 7]);
        assert_eq!(proposed(&mut drafter, &[1, 2, 3, 4, 5, 6, 7, 9, 1, 2], 3, 2), [4, 5]);
        assert!(proposed(&mut drafter, &[1, 2, 3, 4, 5, 6, 7, 9, 1, 2], 3, 0).is_empty());
        // Two tokens alike are too few; so is what has nothing behind it.
        assert!(proposed(&mut drafter, &[1, 2, 3, 4, 9, 2], 3, 9).is_empty());
        assert!(proposed(&mut drafter, &[1, 2], 3, 9).is_empty());
        assert!(proposed(&mut drafter, &[], 3, 9).is_empty());
        // Of several places the longest match, then the latest; a guess may reach past the end.
        assert_eq!(proposed(&mut drafter, &[0, 1, 2, 3, 70, 5, 1, 2, 3, 80, 0, 1, 2], 3, 1), [70]);
        assert_eq!(proposed(&mut drafter, &[1, 2, 3, 70, 1, 2, 3, 80, 1, 2], 3, 1), [80]);
        assert_eq!(proposed(&mut drafter, &[9, 1, 2, 1, 2, 1, 2], 1, 9), [2, 1, 2, 1]);
        assert_eq!(proposed(&mut drafter, &[9, 5, 5, 5], 5, 9), [5, 5, 5, 5]);
        assert!(proposed(&mut Drafter::new(0, 0.01), &[9, 5, 5, 5], 5, 9).is_empty());
    }

    /// The length of its next guess, of which the first `right` tokens come true.
    fn next(drafter: &mut Drafter, right: usize) -> usize {
        let text = [[1, 2, 3].as_slice(), &[7; 40], &[1, 2]].concat();
        drafter.propose(&text, 3, 99);
        (0..right).for_each(|_| drafter.came(7));
        drafter.came(8);
        assert_eq!(drafter.right(), right.min(drafter.draft().len()));
        drafter.judge();
        drafter.draft().len()
    }

    #[test]
    fn guesses_are_as_long_as_they_are_worth() {
        // A token more costs half a decode, where a decode is short of arithmetic.
        let mut dear = Drafter::new(15, 0.5);
        let growing: Vec<_> = (0..20).map(|_| next(&mut dear, 15)).collect();
        assert!(growing[0] <= 3 && growing.is_sorted() && growing[19] > 8, "{growing:?}");
        // And a tenth, where it waits for memory.
        let mut cheap = Drafter::new(15, 0.1);
        assert!(next(&mut cheap, 15) > growing[0]);
        // Where nothing comes true there are pauses, longer and longer, and short trials.
        let failing: Vec<_> = (0..40).map(|_| next(&mut dear, 0)).collect();
        let tried: Vec<_> = (0..40).filter(|i| failing[*i] > 0).collect();
        assert!(failing[10..].iter().all(|length| *length <= TRIAL), "{failing:?}");
        let pauses: Vec<_> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.is_sorted() && *pauses.last().unwrap() >= 8, "{pauses:?}");
        // Until they do again.
        let again: Vec<_> = (0..200).map(|_| next(&mut dear, 15)).collect();
        assert!(*again.last().unwrap() > 8, "{again:?}");
    }

    #[test]
    fn guesses_are_counted() {
        let mut drafter = Drafter::new(4, 0.01);
        assert_eq!((next(&mut drafter, 4), next(&mut drafter, 1)), (4, 4));
        assert_eq!(drafter.totals(), (8, 5));
        drafter.propose(&[1, 2, 3, 4, 1, 2], 3, 9);
        drafter.drop_draft();
        assert_eq!((drafter.draft().len(), drafter.totals()), (0, (8, 5)));
    }
}
