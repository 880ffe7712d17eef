// A plain loop over llama.h: tokenise, decode, take the most likely token, repeat. Nothing of llamapen is in it, unless `--lanes` asks
// for its kernels.
// Tests compare llamapen's tokens and logits with this program's; `make bench` compares the speed.
#include "ggml-cpu.h"
#include "llama.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

// src/native/kernels/buffer.h
extern "C" void lp_lanes_register(void);

static const char USAGE[] =
    "usage: reference MODEL [options]\n"
    "  --threads N      compute threads (2)\n"
    "  --n-ctx N        positions (2048)\n"
    "  --n-ubatch N     prompt tokens per decode (512)\n"
    "  --n-predict N    tokens to generate per prompt (64)\n"
    "  --prompts FILE   prompts separated by NUL bytes, or by lines when there is none (standard input)\n"
    "  --logits FILE    write the logits of every sampled position: float32, prompt after prompt\n"
    "  --ignore-eos     go on after an end-of-generation token\n"
    "  --lanes          with llamapen's kernels for rearranged weights (src/native/kernels)\n"
    "  --no-repack      no weights are rearranged\n"
    "  --penalties      most likely after llama.cpp's own penalties (last 64, 1.3, 0.1, 0.2) and DRY (0.8, its defaults)\n"
    "  --threadpool     keep the compute threads between decodes, as llama.cpp's own tools do\n"
    "  --poll N         how long they wait actively: 0 to 100 (50); implies --threadpool\n"
    "  --context-shift N  when the positions are full, take out half of what is behind the first N and go on\n"
    "  --bench          print prefill_tok_s and decode_tok_s at the end\n";

struct Usage : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Options {
    std::string model, prompts, logits;
    int threads = 2, n_ctx = 2048, n_ubatch = 512, n_predict = 64, poll = 50, keep = -1;
    bool ignore_eos = false, penalties = false, lanes = false, repack = true, threadpool = false, bench = false;
};

static int number(const char * name, const char * text, int least) {
    char * end = nullptr;
    const long value = std::strtol(text, &end, 10);
    if (end == text || *end != '\0' || value < least || value > 1000000) {
        throw Usage(std::string(name) + " wants a number of at least " + std::to_string(least) + ", not '" + text + "'");
    }
    return static_cast<int>(value);
}

static Options parse(int argc, char ** argv) {
    Options o;
    for (int i = 1; i < argc; i++) {
        const std::string arg = argv[i];
        auto value = [&] {
            if (++i == argc) {
                throw Usage(arg + " wants a value");
            }
            return argv[i];
        };
        if (arg == "--threads") o.threads = number("--threads", value(), 1);
        else if (arg == "--n-ctx") o.n_ctx = number("--n-ctx", value(), 1);
        else if (arg == "--n-ubatch") o.n_ubatch = number("--n-ubatch", value(), 1);
        else if (arg == "--n-predict") o.n_predict = number("--n-predict", value(), 1);
        else if (arg == "--poll") o.poll = number("--poll", value(), 0), o.threadpool = true;
        else if (arg == "--context-shift") o.keep = number("--context-shift", value(), 0);
        else if (arg == "--prompts") o.prompts = value();
        else if (arg == "--logits") o.logits = value();
        else if (arg == "--ignore-eos") o.ignore_eos = true;
        else if (arg == "--lanes") o.lanes = true;
        else if (arg == "--no-repack") o.repack = false;
        else if (arg == "--penalties") o.penalties = true;
        else if (arg == "--threadpool") o.threadpool = true;
        else if (arg == "--bench") o.bench = true;
        else if (arg.rfind("--", 0) == 0) throw Usage("unknown option " + arg);
        else if (o.model.empty()) o.model = arg;
        else throw Usage("one model only, not also '" + arg + "'");
    }
    if (o.model.empty()) {
        throw Usage("a model is needed");
    }
    return o;
}

static std::vector<std::string> read_prompts(const std::string & path) {
    std::ifstream file;
    if (!path.empty()) {
        file.open(path, std::ios::binary);
        if (!file) {
            throw std::runtime_error("cannot read " + path);
        }
    }
    std::istream & in = path.empty() ? std::cin : file;
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    const char separator = text.find('\0') != std::string::npos ? '\0' : '\n';
    std::vector<std::string> prompts;
    for (size_t start = 0; start < text.size();) {
        const size_t end = std::min(text.find(separator, start), text.size());
        prompts.push_back(text.substr(start, end - start));
        start = end + 1;
    }
    return prompts;
}

static std::vector<llama_token> tokenize(const llama_vocab * vocab, const std::string & text) {
    const auto length = static_cast<int32_t>(text.size());
    std::vector<llama_token> tokens(-llama_tokenize(vocab, text.data(), length, nullptr, 0, true, true));
    llama_tokenize(vocab, text.data(), length, tokens.data(), static_cast<int32_t>(tokens.size()), true, true);
    return tokens;
}

// Decodes n tokens from position `from`; `logits` asks for those of the last one.
static void decode(llama_context * context, llama_token * tokens, int n, int from, bool logits) {
    std::vector<llama_pos> positions(n);
    std::vector<int8_t> outputs(n, 0);
    for (int i = 0; i < n; i++) {
        positions[i] = from + i;
    }
    outputs[n - 1] = logits;
    llama_batch batch = {};
    batch.n_tokens = n;
    batch.token = tokens;
    batch.pos = positions.data();
    batch.logits = outputs.data();
    const int code = llama_decode(context, batch);
    if (code != 0) {
        throw std::runtime_error("llama_decode returned " + std::to_string(code));
    }
}

// Tokens and seconds of each phase, summed over all prompts.
struct Speed {
    double prefill_s = 0, decode_s = 0;
    long prefill_tokens = 0, decode_tokens = 0;
};

static double seconds() {
    using namespace std::chrono;
    return duration<double>(steady_clock::now().time_since_epoch()).count();
}

// What picks a token with --penalties: knows the prompt, and learns what it picks.
static llama_sampler * penalised(const llama_vocab * vocab, const std::vector<llama_token> & prompt) {
    const char * breakers[] = { "\n", ":", "\"", "*" };
    llama_sampler * chain = llama_sampler_chain_init(llama_sampler_chain_default_params());
    llama_sampler_chain_add(chain, llama_sampler_init_penalties(llama_vocab_n_tokens(vocab), 64, 1.3f, 0.1f, 0.2f));
    llama_sampler_chain_add(chain, llama_sampler_init_dry(vocab, 0.8f, 1.75f, 2, 64, breakers, 4));
    llama_sampler_chain_add(chain, llama_sampler_init_greedy());
    for (const llama_token token : prompt) {
        llama_sampler_accept(chain, token);
    }
    return chain;
}

static std::vector<llama_token> generate(llama_context * context, const llama_vocab * vocab, const Options & o,
                                         const std::string & prompt, std::FILE * logits_file, Speed & speed) {
    const int n_vocab = llama_vocab_n_tokens(vocab);
    std::vector<llama_token> tokens = tokenize(vocab, prompt);
    const int n_prompt = static_cast<int>(tokens.size());
    if (n_prompt == 0 || n_prompt > o.n_ctx) {
        throw std::runtime_error("a prompt has " + std::to_string(n_prompt) + " tokens; 1 to " + std::to_string(o.n_ctx) + " fit");
    }
    llama_memory_clear(llama_get_memory(context), true);

    const double start = seconds();
    for (int done = 0; done < n_prompt; done += o.n_ubatch) {
        const int n = std::min(o.n_ubatch, n_prompt - done);
        decode(context, tokens.data() + done, n, done, done + n == n_prompt);
    }

    llama_sampler * sampler = o.penalties ? penalised(vocab, tokens) : nullptr;
    std::vector<llama_token> generated;
    double first = 0;
    int position = n_prompt;
    while (true) {
        const float * logits = llama_get_logits_ith(context, -1);
        if (logits == nullptr) {
            throw std::runtime_error("no logits");
        }
        llama_token best = 0;
        for (llama_token t = 1; t < n_vocab; t++) {
            best = logits[t] > logits[best] ? t : best; // of equals the first
        }
        if (sampler != nullptr) {
            best = llama_sampler_sample(sampler, context, -1);
        }
        if (generated.empty()) {
            first = seconds();
        }
        generated.push_back(best);
        if (logits_file != nullptr && std::fwrite(logits, sizeof(float), n_vocab, logits_file) != static_cast<size_t>(n_vocab)) {
            throw std::runtime_error("cannot write the logits");
        }
        const int n_generated = static_cast<int>(generated.size());
        if (n_generated == o.n_predict || (position == o.n_ctx && o.keep < 0) || (!o.ignore_eos && llama_vocab_is_eog(vocab, best))) {
            break;
        }
        if (position == o.n_ctx) {
            const int n = (position - o.keep) / 2;
            llama_memory_seq_rm(llama_get_memory(context), 0, o.keep, o.keep + n);
            llama_memory_seq_add(llama_get_memory(context), 0, o.keep + n, -1, -n);
            position -= n;
        }
        decode(context, &generated.back(), 1, position++, true);
    }
    if (sampler != nullptr) {
        llama_sampler_free(sampler);
    }
    speed.prefill_s += first - start;
    speed.prefill_tokens += n_prompt;
    speed.decode_s += seconds() - first;
    speed.decode_tokens += static_cast<long>(generated.size()) - 1;
    return generated;
}

static void run(const Options & o) {
    const std::vector<std::string> prompts = read_prompts(o.prompts);
    llama_log_set(
        [](ggml_log_level level, const char * text, void *) {
            if (level == GGML_LOG_LEVEL_ERROR) {
                std::fputs(text, stderr);
            }
        },
        nullptr);
    llama_backend_init();
    if (o.lanes) lp_lanes_register();

    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    model_params.use_extra_bufts = o.repack;
    llama_model * model = llama_model_load_from_file(o.model.c_str(), model_params);
    if (model == nullptr) {
        throw std::runtime_error("cannot load " + o.model);
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = o.n_ctx;
    params.n_seq_max = 1;
    params.n_batch = o.n_ubatch;
    params.n_ubatch = o.n_ubatch;
    params.n_outputs_max = 1;
    params.n_threads = o.threads;
    params.n_threads_batch = o.threads;
    params.kv_unified = false;
    params.no_perf = true;
    llama_context * context = llama_init_from_model(model, params);
    if (context == nullptr) {
        throw std::runtime_error("cannot create a context");
    }
    ggml_threadpool * pool = nullptr;
    if (o.threadpool) {
        ggml_threadpool_params pool_params = ggml_threadpool_params_default(o.threads);
        pool_params.poll = o.poll;
        pool = ggml_threadpool_new(&pool_params);
        llama_attach_threadpool(context, pool, pool);
    }
    std::FILE * logits_file = o.logits.empty() ? nullptr : std::fopen(o.logits.c_str(), "wb");
    if (!o.logits.empty() && logits_file == nullptr) {
        throw std::runtime_error("cannot write " + o.logits);
    }

    Speed speed;
    for (const std::string & prompt : prompts) {
        const char * space = "";
        for (llama_token token : generate(context, llama_model_get_vocab(model), o, prompt, logits_file, speed)) {
            std::printf("%s%d", space, token);
            space = " ";
        }
        std::printf("\n");
    }
    if (o.bench) {
        std::printf("prefill_tok_s=%.2f decode_tok_s=%.2f\n", speed.prefill_tokens / speed.prefill_s, speed.decode_tokens / speed.decode_s);
    }
    if (logits_file != nullptr && std::fclose(logits_file) != 0) {
        throw std::runtime_error("cannot write " + o.logits);
    }
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
        std::fprintf(stderr, "reference: %s\n%s", e.what(), USAGE);
        return 2;
    } catch (const std::exception & e) {
        std::fprintf(stderr, "reference: %s\n", e.what());
        return 1;
    }
}
