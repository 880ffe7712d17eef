"""llama-cpp-python, by `Llama.generate`: the API closest to its loop, without texts."""

import llama_cpp
from lines import serve


def load(model, n_ctx, n_ubatch, threads):
    sizes = {"n_ctx": n_ctx, "n_batch": n_ubatch, "n_ubatch": n_ubatch, "n_threads": threads, "n_threads_batch": threads}
    llama = llama_cpp.Llama(model, verbose=False, **sizes)

    def ask(tokens, n):
        for _, token in zip(range(n), llama.generate(tokens, temp=0.0, repeat_penalty=1.0)):
            yield token

    return ask


serve(load)
