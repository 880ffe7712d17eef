//! Log probabilities of tokens, from the logits as the model gave them.

/// Buffers of one request, so that a token allocates nothing but its event.
pub(crate) struct LogSoftmax {
    /// The likeliest: logits and tokens, likeliest first, of equals the first token. At most `n`.
    top: Vec<(f32, i32)>,
    n: usize,
    /// The largest logit, and the logarithm of the sum of all exponentials relative to it: nothing overflows.
    max: f64,
    log_sum: f64,
}

impl LogSoftmax {
    pub(crate) fn new(n: usize) -> Self {
        Self { top: Vec::with_capacity(n + 1), n, max: 0.0, log_sum: 0.0 }
    }

    /// Reads the logits of a position.
    pub(crate) fn read(&mut self, logits: &[f32]) {
        self.top.clear();
        for (token, logit) in (0..).zip(logits) {
            let full = self.top.len() == self.n;
            // A token that cannot come is no alternative; neither is what is no number.
            if *logit > f32::NEG_INFINITY && (!full || self.top.last().is_some_and(|(least, _)| logit > least)) {
                let place = self.top.partition_point(|(other, _)| other >= logit);
                self.top.insert(place, (*logit, token));
                self.top.truncate(self.n);
            }
        }
        self.max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        self.log_sum = logits.iter().map(|logit| (f64::from(*logit) - self.max).exp()).sum::<f64>().ln();
    }

    /// Natural logarithm of the probability of a token with this logit.
    pub(crate) fn logprob(&self, logit: f32) -> f64 {
        f64::from(logit) - self.max - self.log_sum
    }

    /// Tokens and their log probabilities, likeliest first.
    pub(crate) fn top(&self) -> impl ExactSizeIterator<Item = (i32, f64)> {
        self.top.iter().map(|(logit, token)| (*token, self.logprob(*logit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, as it is written.
    fn reference(logits: &[f32]) -> Vec<f64> {
        let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        logits.iter().map(|l| (f64::from(*l).exp() / sum).ln()).collect()
    }

    proptest! {
        #[test]
        fn equals_the_definition(logits in proptest::collection::vec(-30i16..30, 1..60), n in 0usize..=20) {
            // Halves, so that equal logits occur.
            let logits: Vec<f32> = logits.iter().map(|l| f32::from(*l) / 2.0).collect();
            let expected = reference(&logits);
            let mut softmax = LogSoftmax::new(n);
            // Twice: nothing is left of the position before.
            softmax.read(&[99.0, 98.0]);
            softmax.read(&logits);
            for (logit, expected) in logits.iter().zip(&expected) {
                prop_assert!((softmax.logprob(*logit) - expected).abs() < 1e-9);
            }
            let mut order: Vec<i32> = (0..).take(logits.len()).collect();
            order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
            order.truncate(n);
            let top: Vec<i32> = softmax.top().map(|(token, _)| token).collect();
            prop_assert_eq!(top, order);
            for (token, logprob) in softmax.top() {
                prop_assert!((logprob - expected[token as usize]).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn large_logits_do_not_overflow_and_impossible_tokens_are_no_alternatives() {
        let mut softmax = LogSoftmax::new(20);
        softmax.read(&[1e30, f32::NEG_INFINITY, 1e30, -1e30]);
        let top: Vec<_> = softmax.top().collect();
        assert_eq!(top[..2], [(0, -std::f64::consts::LN_2), (2, -std::f64::consts::LN_2)]);
        assert_eq!((top.len(), top[2].0), (3, 3));
    }
}
