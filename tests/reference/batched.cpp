// Many sequences in one llama_context, timed as llama.cpp's llama-batched-bench times them: all prompts (each its own)
// in batches of n_batch, then one token of every sequence per batch. Nothing of llamapen is in it; `make
// bench-batching` compares the speed.
#include "ggml-cpu.h"
#include "llama.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

static const char USAGE[] =
    "usage: batched MODEL [options]\n"
    "  --streams N      sequences (1)\n"
    "  --n-prompt N     prompt tokens of each (128)\n"
    "  --n-predict N    tokens to generate of each (64)\n"
    "  --threads N      compute threads, which stay and poll between decodes (2)\n"
    "  --n-batch N      most tokens per call (2048)\n"
    "  --n-ubatch N     most tokens computed together (512)\n"
    "  --unified        one KV buffer for all sequences, not one for each\n"
    "  --greedy         pick the most likely token of every sequence, and not token 0 without a look\n"
    "  --piece N        one prompt after the other, in calls of at most N tokens of it\n";

struct Usage : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Options {
    std::string model;
    int streams = 1, n_prompt = 128, n_predict = 64, threads = 2, n_batch = 2048, n_ubatch = 512, piece = 0;
    bool unified = false, greedy = false;
};

static Options parse(int argc, char ** argv) {
    Options o;
    for (int i = 1; i < argc; i++) {
        const std::string arg = argv[i];
        auto number = [&] {
            char * end = nullptr;
            const long value = ++i < argc ? std::strtol(argv[i], &end, 10) : 0;
            if (value < 1 || value > 1000000 || *end != '\0') {
                throw Usage(arg + " wants a number of at least 1");
            }
            return static_cast<int>(value);
        };
        if (arg == "--streams") o.streams = number();
        else if (arg == "--n-prompt") o.n_prompt = number();
        else if (arg == "--n-predict") o.n_predict = number();
        else if (arg == "--threads") o.threads = number();
        else if (arg == "--n-batch") o.n_batch = number();
        else if (arg == "--n-ubatch") o.n_ubatch = number();
        else if (arg == "--piece") o.piece = number();
        else if (arg == "--unified") o.unified = true;
        else if (arg == "--greedy") o.greedy = true;
        else if (arg.rfind("--", 0) == 0) throw Usage("unknown option " + arg);
        else if (o.model.empty()) o.model = arg;
        else throw Usage("one model only, not also '" + arg + "'");
    }
    if (o.model.empty()) {
        throw Usage("a model is needed");
    }
    return o;
}

// The arrays of a batch whose tokens belong to one sequence each.
struct Batch {
    std::vector<llama_token> token;
    std::vector<llama_pos> pos;
    std::vector<int32_t> n_seq_id;
    std::vector<llama_seq_id> sequence;
    std::vector<llama_seq_id *> seq_id;
    std::vector<int8_t> logits;

    void add(llama_token t, int position, int seq, bool output) {
        token.push_back(t);
        pos.push_back(position);
        n_seq_id.push_back(1);
        sequence.push_back(seq);
        logits.push_back(output);
    }
    void clear() {
        token.clear(), pos.clear(), n_seq_id.clear(), sequence.clear(), logits.clear();
    }
    // Decodes in calls of at most n_batch tokens.
    void decode(llama_context * context, int n_batch) {
        seq_id.resize(sequence.size());
        for (size_t i = 0; i < sequence.size(); i++) {
            seq_id[i] = &sequence[i];
        }
        const int n = static_cast<int>(token.size());
        for (int i = 0; i < n; i += n_batch) {
            llama_batch view = {};
            view.n_tokens = std::min(n_batch, n - i);
            view.token = token.data() + i;
            view.pos = pos.data() + i;
            view.n_seq_id = n_seq_id.data() + i;
            view.seq_id = seq_id.data() + i;
            view.logits = logits.data() + i;
            const int code = llama_decode(context, view);
            if (code != 0) {
                throw std::runtime_error("llama_decode returned " + std::to_string(code));
            }
            llama_synchronize(context);
        }
    }
};

static double seconds() {
    using namespace std::chrono;
    return duration<double>(steady_clock::now().time_since_epoch()).count();
}

// The same tokens as examples/bench_streams.rs has.
static llama_token word(int sequence, int position, int n_vocab) {
    return 1000 + static_cast<int>((position * 7919L + sequence * 7001L) % (n_vocab - 2000));
}

static void measure(llama_context * context, const Options & o, int n_vocab) {
    auto best = [&](int output) {
        const float * logits = llama_get_logits_ith(context, output);
        if (logits == nullptr) {
            throw std::runtime_error("no logits");
        }
        return static_cast<llama_token>(std::max_element(logits, logits + n_vocab) - logits);
    };
    Batch batch;
    // The first decodes touch weights and buffers for the first time: not counted.
    for (int i = 0; i < 16 && i < o.n_prompt; i++) {
        batch.add(0, i, 0, false);
    }
    batch.decode(context, o.n_batch);
    llama_memory_clear(llama_get_memory(context), true);

    std::vector<llama_token> next(o.streams, 0);
    const double start = seconds();
    batch.clear();
    for (int s = 0; s < o.streams; s++) {
        for (int i = 0; i < o.n_prompt; i++) {
            // llama-batched-bench has one output for all prompts; whoever samples needs one for each.
            batch.add(word(s, i, n_vocab), i, s, i + 1 == o.n_prompt && (o.greedy || s + 1 == o.streams));
        }
        if (o.piece > 0) {
            batch.decode(context, std::min(o.piece, o.n_batch));
            if (o.greedy) next[s] = best(-1);
            batch.clear();
        }
    }
    if (o.piece == 0) {
        // With --greedy the first tokens stay 0: the logits of all but the last call are gone. It changes no time.
        batch.decode(context, o.n_batch);
    }
    const double prompts_done = seconds();

    for (int i = 0; i < o.n_predict; i++) {
        batch.clear();
        for (int s = 0; s < o.streams; s++) {
            batch.add(next[s], o.n_prompt + i, s, true);
        }
        batch.decode(context, o.n_batch);
        for (int s = 0; s < o.streams && o.greedy; s++) {
            next[s] = best(s);
        }
    }
    const double end = seconds();
    const double n_prompt = 1.0 * o.streams * o.n_prompt, n_predict = 1.0 * o.streams * o.n_predict;
    std::printf("{\"total_s\": %.4f, \"tok_s\": %.2f, \"prefill_tok_s\": %.2f, \"generate_tok_s\": %.2f}\n", end - start,
                (n_prompt + n_predict) / (end - start), n_prompt / (prompts_done - start), n_predict / (end - prompts_done));
}

static void run(const Options & o) {
    llama_log_set(
        [](ggml_log_level level, const char * text, void *) {
            if (level == GGML_LOG_LEVEL_ERROR) {
                std::fputs(text, stderr);
            }
        },
        nullptr);
    llama_backend_init();

    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    llama_model * model = llama_model_load_from_file(o.model.c_str(), model_params);
    if (model == nullptr) {
        throw std::runtime_error("cannot load " + o.model);
    }
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    if (n_vocab < 4000) {
        throw std::runtime_error("the model's vocabulary is too small for different prompts");
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = o.streams * (o.n_prompt + o.n_predict);
    params.n_seq_max = o.streams;
    params.n_batch = o.n_batch;
    params.n_ubatch = o.n_ubatch;
    params.n_threads = o.threads;
    params.n_threads_batch = o.threads;
    params.kv_unified = o.unified;
    params.no_perf = true;
    llama_context * context = llama_init_from_model(model, params);
    if (context == nullptr) {
        throw std::runtime_error("cannot create a context");
    }
    ggml_threadpool_params pool_params = ggml_threadpool_params_default(o.threads);
    ggml_threadpool * pool = ggml_threadpool_new(&pool_params);
    llama_attach_threadpool(context, pool, pool);
    measure(context, o, n_vocab);
    llama_free(context);
    ggml_threadpool_free(pool);
    llama_model_free(model);
}

// 0 done, 1 failed, 2 wrong usage.
int main(int argc, char ** argv) {
    try {
        run(parse(argc, argv));
        return std::fflush(stdout) == 0 ? 0 : 1;
    } catch (const Usage & e) {
        std::fprintf(stderr, "batched: %s\n%s", e.what(), USAGE);
        return 2;
    } catch (const std::exception & e) {
        std::fprintf(stderr, "batched: %s\n", e.what());
        return 1;
    }
}
