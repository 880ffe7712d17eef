//! Which of the requests that were running when a worker died is to blame for it. Pure.
//!
//! Nobody can tell from one crash. So those that ran are *suspects* from then on, of which no worker runs two at a time: the
//! next crash then points at one. A request that goes well past where it was when the worker died is no suspect any more.

/// Tokens past the crash after which a suspect is cleared.
const CLEARED_AFTER: u32 = 16;

/// A request's part in crashes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Part {
    /// How often a worker died while it ran there.
    crashes: u32,
    /// Of them, those that can be laid at its door: it ran alone, or nobody else there was a suspect.
    attributed: u32,
    /// It is a suspect until it has generated so many tokens.
    suspect_until: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Resume,
    /// It was running in two crashes, and they were its own.
    Poisoned,
}

impl Part {
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect_until.is_some()
    }

    /// It has generated so many tokens, and its worker lives.
    pub(crate) fn generated(&mut self, tokens: u32) {
        // Who was there twice stays a suspect: once may be chance.
        if self.crashes < 2 && self.suspect_until.is_some_and(|until| tokens >= until) {
            self.suspect_until = None;
        }
    }
}

/// A worker died while it ran these; with each, how many tokens it had generated. One verdict for each.
pub(crate) fn judge(ran: &mut [(Part, u32)]) -> Vec<Verdict> {
    let suspects = ran.iter().filter(|(part, _)| part.is_suspect()).count();
    let alone = ran.len() == 1;
    let judge_one = |(part, tokens): &mut (Part, u32)| {
        part.crashes += 1;
        let blamed = alone || suspects == 1 && part.is_suspect();
        part.attributed += u32::from(blamed);
        if suspects == 0 || part.is_suspect() || part.crashes > 1 {
            part.suspect_until = Some(*tokens + CLEARED_AFTER);
        }
        match part.attributed >= 2 || alone && part.crashes >= 2 {
            true => Verdict::Poisoned,
            false => Verdict::Resume,
        }
    };
    ran.iter_mut().map(judge_one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Poisoned, Resume};
    use proptest::prelude::*;

    /// A crash of those with these numbers.
    fn crash(all: &mut [Part], ran: &[usize]) -> Vec<Verdict> {
        let mut parts: Vec<_> = ran.iter().map(|&i| (all[i], 0)).collect();
        let verdicts = judge(&mut parts);
        ran.iter().zip(parts).for_each(|(&i, (part, _))| all[i] = part);
        verdicts
    }

    #[test]
    fn who_runs_alone_in_two_crashes_is_poisoned() {
        let mut all = [Part::default()];
        assert_eq!(crash(&mut all, &[0]), [Resume]);
        assert_eq!(crash(&mut all, &[0]), [Poisoned]);
    }

    #[test]
    fn bystanders_are_cleared_and_the_culprit_is_found() {
        let mut all = [Part::default(); 3];
        assert_eq!(crash(&mut all, &[0, 1, 2]), [Resume; 3]);
        assert!(all.iter().all(Part::is_suspect));
        // The first one goes on beside no other suspect, and is cleared.
        all[0].generated(CLEARED_AFTER - 1);
        assert!(all[0].is_suspect());
        all[0].generated(CLEARED_AFTER);
        assert!(!all[0].is_suspect());
        // The second is the culprit. It was there twice, but not alone: the first was there twice as well.
        assert_eq!(crash(&mut all, &[0, 1]), [Resume, Resume]);
        assert!(all[0].is_suspect() && all[1].is_suspect());
        // Both are kept apart now for good, and the third crash decides.
        all[0].generated(1000);
        assert!(all[0].is_suspect());
        assert_eq!(crash(&mut all, &[1]), [Poisoned]);
    }

    #[test]
    fn a_newcomer_beside_a_suspect_is_no_suspect() {
        let mut all = [Part::default(); 2];
        assert_eq!(crash(&mut all, &[0]), [Resume]);
        assert_eq!(crash(&mut all, &[0, 1]), [Poisoned, Resume]);
        assert!(!all[1].is_suspect());
    }

    proptest! {
        /// One of several kills its worker whenever it runs. It is found after a few crashes, and nobody else is blamed as long as no worker
        /// runs two suspects.
        #[test]
        fn only_the_culprit_is_poisoned(culprit in 0..6usize, order in Just((0..6usize).collect::<Vec<_>>()).prop_shuffle(), cleared in any::<[bool; 6]>()) {
            let mut all = [Part::default(); 6];
            crash(&mut all, &order);
            let (mut running, mut crashes): (Vec<usize>, usize) = (vec![], 0);
            let mut waiting: std::collections::VecDeque<usize> = order.into();
            for _ in 0..100 {
                // As the queue does it: no two suspects at a time.
                let free = |all: &[Part], running: &[usize]| !running.iter().any(|&i| all[i].is_suspect());
                while let Some(at) = waiting.iter().position(|&i| !all[i].is_suspect() || free(&all, &running)) {
                    running.extend(waiting.remove(at));
                }
                if running.contains(&culprit) {
                    crashes += 1;
                    prop_assert!(crashes <= 4);
                    for (verdict, i) in crash(&mut all, &running).into_iter().zip(std::mem::take(&mut running)) {
                        if verdict == Poisoned {
                            prop_assert_eq!(i, culprit);
                            return Ok(());
                        }
                        waiting.push_back(i);
                    }
                } else {
                    // The others go on, or end.
                    running.iter().for_each(|&i| all[i].generated(100));
                    running.retain(|&i| !all[i].is_suspect() && cleared[i]);
                }
            }
            prop_assert!(false, "never found");
        }
    }
}
