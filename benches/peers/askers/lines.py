"""What the askers in Python share: a line of JSON is a question, a line of JSON the answer.

The first argument says what to load; the first line says how many seconds that took, once the binding is imported. An answer
has seconds since the question was there, until the first token and until the
last one, and how many came.
"""

import json
import os
import sys
import time


def serve(load):
    """`load(model, n_ctx, n_ubatch, threads)` gives `ask(tokens, n)`, which yields once per token."""
    # The engine prints to stdout, too.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(value):
        print(json.dumps(value), file=answers, flush=True)

    began = time.monotonic()
    ask = load(**json.loads(sys.argv[1]))
    say({"load": time.monotonic() - began})
    for line in sys.stdin:
        question, began = json.loads(line), time.monotonic()
        times = [time.monotonic() - began for _ in ask(question["tokens"], question["n"])]
        say({"first": times[0], "last": times[-1], "count": len(times)})
