"""xllamacpp: llama-server's loop within the process, asked by a call and answered by callbacks."""

import queue
import threading

import xllamacpp
from lines import serve


def load(model, n_ctx, n_ubatch, threads):
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_ubatch = model, n_ctx, n_ubatch
    params.n_parallel, params.n_gpu_layers, params.ui, params.verbosity = 1, 0, False, -1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)

    def ask(tokens, n):
        events, body = queue.SimpleQueue(), {"prompt": tokens, "max_tokens": n, "temperature": 0, "ignore_eos": True, "stream": True}
        call = threading.Thread(target=lambda: (server.handle_completions(body, events.put), events.put(None)))
        call.start()
        # A token without a whole character has no event of its own: the last one says how many there were.
        given = 0
        while (event := events.get()) is not None:
            usage = event.get("usage")
            more = usage["completion_tokens"] - given if usage else 1
            given += more
            yield from range(more)
        call.join()

    return ask


serve(load)
