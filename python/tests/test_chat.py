"""End to end: text in, text out, and what the parameters do to it."""

import unittest

import support
from llamapen import Finished, Started, Supervisor, Token

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]


def started(**params):
    """What is reported of the prompt; the rest is not waited for."""
    return support.start_of(support.supervisor(), max_tokens=1, **params)[1]


class Chat(unittest.TestCase):
    def test_the_answer_is_right(self):
        text = support.supervisor().submit(messages=CAPITAL, temperature=0, max_tokens=32).text()
        self.assertIn("Paris", text)

    def test_events_come_in_order_and_add_up(self):
        events = list(support.supervisor().submit(messages=CAPITAL, temperature=0, max_tokens=64))
        first, *tokens, last = events
        self.assertIsInstance(first, Started)
        self.assertIsInstance(last, Finished)
        self.assertTrue(all(isinstance(token, Token) for token in tokens))
        self.assertEqual([token.index for token in tokens], list(range(len(tokens))))
        self.assertEqual(last.usage["completion_tokens"], len(tokens))
        self.assertEqual(last.usage["prompt_tokens"], first.prompt_tokens)
        self.assertEqual(last.reason, "stop")
        self.assertTrue(all(ms >= 0 for ms in last.timings.values()) and last.timings["decode_ms"] > 0, last.timings)

    def test_pieces_and_text_agree(self):
        params = {"messages": CAPITAL, "temperature": 0, "max_tokens": 32}
        pieces = list(support.supervisor().submit(**params).pieces())
        self.assertGreater(len(pieces), 1)
        self.assertEqual("".join(pieces), support.supervisor().submit(**params).text())

    def test_a_conversation_is_understood(self):
        for word in ("banana", "castle"):
            messages = [
                {"role": "user", "content": f"Remember the word {word}."},
                {"role": "assistant", "content": f"I will remember the word {word}."},
                {"role": "user", "content": "Which word did I ask you to remember?"},
            ]
            self.assertIn(word, support.supervisor().submit(messages=messages, temperature=0, max_tokens=32).text())


class Template(unittest.TestCase):
    """Messages are rendered in the format of the template in the file, ChatML: by hand, they give the same prompt."""

    def render(self, *messages):
        turns = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages)
        return turns + "<|im_start|>assistant\n"

    def assert_same_prompt(self, messages, rendered):
        params = {"temperature": 0, "max_tokens": 16}
        chat, text = (
            list(support.supervisor().submit(**by, **params)) for by in ({"messages": messages}, {"prompt": rendered})
        )
        self.assertEqual(chat[0].prompt_tokens, text[0].prompt_tokens)
        self.assertEqual([e.token for e in chat[1:-1]], [e.token for e in text[1:-1]])

    def test_with_a_system_message(self):
        turns = [("system", "You speak in rhymes."), ("user", "Hello!"), ("assistant", "Hi!"), ("user", "Why?")]
        self.assert_same_prompt([{"role": r, "content": c} for r, c in turns], self.render(*turns))

    def test_without_a_system_message(self):
        # llama.cpp recognises the family of a template and does not run its Jinja: this model's would add a default one.
        self.assert_same_prompt([{"role": "user", "content": "Hello!"}], self.render(("user", "Hello!")))


class Sampling(unittest.TestCase):
    def text(self, **params):
        return support.supervisor().submit(**{"prompt": "The best thing about", "max_tokens": 24, **params}).text()

    def test_the_same_seed_gives_the_same_text(self):
        self.assertEqual(self.text(seed=7, temperature=1.2), self.text(seed=7, temperature=1.2))

    def test_other_seeds_give_other_texts(self):
        self.assertGreater(len({self.text(seed=seed, temperature=1.2) for seed in range(4)}), 1)

    def test_a_drawn_seed_can_be_used_again(self):
        first, other = started(prompt="Hello"), started(prompt="Hello")
        self.assertNotEqual(first.seed, other.seed)
        stream, begin = support.start_of(support.supervisor(), prompt="The best thing about", max_tokens=24)
        self.assertEqual(stream.text(), self.text(seed=begin.seed))

    def test_the_given_seed_is_the_one_used(self):
        self.assertEqual(started(prompt="Hello", seed=2**64 - 1).seed, 2**64 - 1)

    def test_what_else_runs_does_not_change_a_text(self):
        prompts = [{"prompt": text, "seed": 3, "max_tokens": 16} for text in ("Once", "In Paris", "def main():", "1 2 3")]
        alone = [self.text(**params) for params in prompts]
        with Supervisor(support.engine(n_ctx=512, slots=4)) as supervisor:
            streams = [supervisor.submit(**params) for params in prompts]
            self.assertEqual([stream.text() for stream in streams], alone)

    def test_greedy_needs_no_seed(self):
        self.assertEqual(self.text(temperature=0, seed=1), self.text(temperature=0, seed=2))
        self.assertEqual(self.text(temperature=0), self.text(top_k=1, seed=3))

    def test_penalties_change_the_text(self):
        greedy = {"prompt": "one one one one one one one one one one", "temperature": 0, "ignore_eos": True}
        plain = self.text(**greedy)
        for penalty in ({"repeat_penalty": 2.0}, {"frequency_penalty": 5.0}, {"presence_penalty": 10.0}):
            with self.subTest(**penalty):
                self.assertNotEqual(self.text(**greedy, **penalty), plain)
                # Looking at nothing, they do nothing.
                self.assertEqual(self.text(**greedy, **penalty, penalty_last_n=0), plain)

    def test_max_tokens(self):
        events = list(support.supervisor().submit("Once upon a time", max_tokens=5, ignore_eos=True))
        self.assertEqual(sum(isinstance(event, Token) for event in events), 5)
        self.assertEqual(events[-1].reason, "length")

    def test_tokens_as_input(self):
        self.assertEqual(started(tokens=[1, 100, 200, 300]).prompt_tokens, 4)

    def test_a_prompt_that_is_known_is_not_decoded_again(self):
        with support.llamapen.Supervisor(support.engine(n_ctx=512), max_stall_ms=50) as supervisor:
            params = {"tokens": list(range(1000, 1100)), "max_tokens": 1}
            self.assertEqual([list(supervisor.submit(**params))[0].cached_tokens for _ in range(2)], [0, 99])
            worker = supervisor.health()["workers"][0]
            self.assertEqual((worker["kv_total"], worker["prefill_piece"], worker["prefix_store_used"]), (512, 256, 0))
        with support.llamapen.Supervisor(support.engine(n_ctx=512, prefix_cache=False)) as supervisor:
            self.assertEqual([list(supervisor.submit(**params))[0].cached_tokens for _ in range(2)], [0, 0])

    def test_logits(self):
        n_vocab = support.engine().info["n_vocab"]
        events = list(support.supervisor().submit("Hello", temperature=0, max_tokens=4, logits=True))
        tokens = [event for event in events if isinstance(event, Token)]
        self.assertTrue(tokens)
        for token in tokens:
            self.assertEqual(len(token.logits), n_vocab)
            self.assertEqual(max(range(n_vocab), key=token.logits.__getitem__), token.token)
        plain = next(e for e in support.supervisor().submit("Hello", max_tokens=1) if isinstance(e, Token))
        self.assertIsNone(plain.logits)


class Unicode(unittest.TestCase):
    # Decoding is strict, so every text that is cut inside a character raises.

    def test_characters_of_several_tokens_come_whole(self):
        prompt = "🦙🚀🎉🌍 " * 12
        events = list(support.supervisor().submit(prompt, temperature=0, max_tokens=48, ignore_eos=True))
        texts = [event.text for event in events if isinstance(event, Token)]
        # Otherwise the model wrote nothing that could have been cut, and this test shows nothing.
        self.assertTrue(any(ord(c) > 0xFFFF for c in "".join(texts)), texts)
        self.assertIn("", texts)
        self.assertNotIn("\ufffd", "".join(texts))

    def test_wild_sampling_still_gives_text(self):
        held_back = 0
        for seed in range(6):
            params = {"seed": seed, "temperature": 100, "top_k": 0, "top_p": 1, "min_p": 0, "max_tokens": 64}
            events = list(support.supervisor().submit("日本語と", ignore_eos=True, **params))
            self.assertIsInstance(events[-1], Finished)
            held_back += sum(isinstance(event, Token) and event.text == "" for event in events)
        self.assertGreater(held_back, 0)

    def test_every_character_is_taken(self):
        for text in ("\0", "a\0b", "é", "漢字", "🦙", "\u2028", "e\u0301"):
            with self.subTest(text=text):
                self.assertGreater(started(prompt=text).prompt_tokens, 0)


if __name__ == "__main__":
    unittest.main()
