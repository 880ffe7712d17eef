"""Stops, log probabilities, echo and biases: what the parameters of a request do."""

import math
import unittest

import support
from llamapen import Finished, Logprobs, Started, Token

COUNTING = {"prompt": "1, 2, 3, 4, 5, 6,", "temperature": 0, "max_tokens": 24, "ignore_eos": True}


def run(**params):
    """The `Started`, the tokens and the `Finished`."""
    started, *tokens, finished = support.supervisor().submit(**{**COUNTING, **params})
    assert isinstance(started, Started) and isinstance(finished, Finished), (started, finished)
    return started, tokens, finished


def text_of(tokens, finished):
    return "".join(token.text for token in tokens) + finished.text


class Stops(unittest.TestCase):
    def test_a_stop_string_is_cut_exactly(self):
        text = text_of(*run()[1:])
        for begin, end in ((5, 6), (7, 12), (9, 20)):
            stop = text[begin:end]
            _, tokens, finished = run(stop=["never", stop])
            self.assertEqual(text_of(tokens, finished), text[: text.index(stop)])
            self.assertEqual((finished.reason, finished.stop_string), ("stop_string", stop))
            self.assertIsNone(finished.stop_token)

    def test_what_was_held_back_comes_at_last(self):
        text = text_of(*run()[1:])
        _, tokens, finished = run(stop=[text[-4:] + "never"])
        self.assertEqual(finished.text, text[-4:])
        self.assertEqual(text_of(tokens, finished), text)
        self.assertEqual((finished.reason, finished.stop_string), ("length", None))

    def test_a_stop_token_has_no_event(self):
        ids = [token.token for token in run()[1]]
        _, tokens, finished = run(stop_tokens=[ids[7]])
        self.assertEqual([token.token for token in tokens], ids[: ids.index(ids[7])])
        self.assertEqual((finished.reason, finished.stop_token), ("stop_token", ids[7]))


class Reports(unittest.TestCase):
    def test_logprobs(self):
        for token in run(logprobs=5, logits=True, max_tokens=6)[1]:
            self.assertIsInstance(token.logprobs, Logprobs)
            best = max(token.logits)
            log_sum = math.log(sum(math.exp(logit - best) for logit in token.logits))
            self.assertAlmostEqual(token.logprobs.logprob, token.logits[token.token] - best - log_sum)
            self.assertEqual(len(token.logprobs.top), 5)
            # Greedy: the likeliest is the one that was picked.
            first = token.logprobs.top[0]
            self.assertEqual((first.token, first.logprob, first.text), (token.token, token.logprobs.logprob, token.text))
            for top in token.logprobs.top:
                self.assertAlmostEqual(top.logprob, token.logits[top.token] - best - log_sum)

    def test_no_logprobs_unless_asked_for(self):
        # Also where the text looks like them.
        _, tokens, _ = run(prompt='{"logprobs": 1, "logprobs": 2, "logprobs":')
        self.assertTrue(all(isinstance(token, Token) and token.logprobs is None for token in tokens))
        self.assertEqual(run(logprobs=0)[1][0].logprobs.top, ())

    def test_echo(self):
        self.assertEqual(run(echo=True)[0].prompt, COUNTING["prompt"])
        self.assertIsNone(run()[0].prompt)


class Guesses(unittest.TestCase):
    """draft_max changes no answer, and says what came true."""

    def test_the_answer_is_the_same(self):
        engine = support.engine(n_ctx=512, draft_max=7)
        self.assertEqual(engine.draft_max, 7)
        params = {"prompt": "la li lo lu, " * 8, "temperature": 0, "max_tokens": 30, "ignore_eos": True}
        with support.llamapen.Supervisor(engine) as supervisor:
            answers = [list(supervisor.submit(**params, draft_max=most)) for most in (0, 7)]
            self.assertEqual(supervisor.health()["workers"][0]["draft_max"], 7)
            with self.assertRaisesRegex(support.llamapen.InvalidParams, "draft_max"):
                supervisor.submit(**params, draft_max=8)
        texts = ["".join(event.text for event in answer if isinstance(event, Token)) for answer in answers]
        self.assertEqual(*texts)
        plain, guessed = (answer[-1].usage for answer in answers)
        self.assertEqual((plain["draft_tokens"], plain["draft_accepted"]), (0, 0))
        # How many depends on what checking takes on this machine.
        self.assertTrue(3 < guessed["draft_accepted"] <= guessed["draft_tokens"], guessed)


class Shifts(unittest.TestCase):
    def test_a_full_context_goes_on_where_asked_for(self):
        params = {"tokens": list(range(1000, 1020)), "max_tokens": 100, "ignore_eos": True}
        with support.llamapen.Supervisor(support.engine(n_ctx=48)) as supervisor:
            with self.assertRaises(support.llamapen.ContextOverflow):
                supervisor.submit(**params)
            *_, end = supervisor.submit(**params, context_shift=True, n_keep=8)
            self.assertEqual((end.reason, end.usage["completion_tokens"]), ("length", 100))
            # Of 48 tokens 20 behind the first 8 go, four times.
            self.assertEqual(end.usage["shifted_tokens"], 80)


class Biases(unittest.TestCase):
    def test_they_forbid_and_force(self):
        ids = [token.token for token in run()[1]]
        for forbidden in ({ids[0]: -100}, {ids[0]: False}):
            self.assertNotIn(ids[0], [token.token for token in run(logit_bias=forbidden)[1]])
        self.assertEqual({token.token for token in run(logit_bias=[[5, 100]])[1]}, {5})


if __name__ == "__main__":
    unittest.main()
