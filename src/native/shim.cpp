// Implementation of shim.h over llama.h: models, vocabulary, templates, contexts. Samplers are in shim_sampler.cpp.
#include "shim_guard.h"

#include "ggml-cpu.h"
#include "kernels/buffer.h"
#include "llama-context.h"
#include "llama-ext.h"
#include "llama-model.h"
#include "llama.h"

#ifdef LLAMAPEN_FAULT_INJECTION
#include "inject.h"
#endif

#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <sys/mman.h>
#include <unistd.h>

using llamapen::fail;
using llamapen::guarded;

// lp_model is llama_model under another name.
static llama_model * native(lp_model * model) { return reinterpret_cast<llama_model *>(model); }
static const llama_model * native(const lp_model * model) { return reinterpret_cast<const llama_model *>(model); }
static const llama_vocab * vocab(const lp_model * model) { return llama_model_get_vocab(native(model)); }

// A context, the threads that compute for it and the arrays that a batch points to.
struct lp_context {
    struct Free {
        void operator()(llama_context * context) const { llama_free(context); }
        void operator()(ggml_threadpool * pool) const { ggml_threadpool_free(pool); }
    };
    // By the number of their threads: the idle ones of a larger pool would be woken for every graph. Declared first, so destroyed
    // last: the context uses them until it is gone.
    std::map<uint32_t, std::unique_ptr<ggml_threadpool, Free>> pools;
    std::unique_ptr<llama_context, Free> context;
    std::vector<int32_t> n_seq_id;
    std::vector<llama_seq_id *> seq_id;
    // Where the kernels of the CPU are chosen; owned by the context.
    ggml_backend_t cpu = nullptr;
    ggml_type type_k = GGML_TYPE_COUNT;
    // The next decode is reported as failed.
    bool fail_next = false;
};

// How long ggml's idle compute threads poll for work before they sleep, of 0 to 100. A decode follows the last within
// a fraction of a millisecond; an idle engine inside a host application must not burn its cores.
static const uint32_t POLL_LEVEL = 1;

static lp_log_fn log_sink = nullptr;

LP_Status lp_backend_init(lp_log_fn log, lp_error * error) {
    return guarded(error, LP_EXCEPTION, [&] {
        log_sink = log;
        llama_log_set([](ggml_log_level level, const char * text, void * user) { lp_log(level, text, user); }, nullptr);
        ggml_set_abort_callback(lp_pen_abort);
        llama_backend_init();
        lp_lanes_register();
        return LP_OK;
    });
}

// The first error that was logged on this thread in a call that goes on to fail without saying why.
static thread_local char first_error[300];

static const char * said(const char * what, char (&message)[sizeof first_error + 100]) {
    std::snprintf(message, sizeof message, first_error[0] ? "%s: %s" : "%s", what, first_error);
    return message;
}

// Where a load is. llama.cpp does not tell: the line that it logs before it looks for tensors ends the header, its first report of
// progress the mapping.
namespace {
struct LoadClock {
    static thread_local LoadClock * running;
    const int64_t began = ggml_time_us();
    int64_t header_read = 0, mapped = 0;

    LoadClock() { running = this; }
    ~LoadClock() { running = nullptr; }
    LoadClock(const LoadClock &) = delete;

    static void logged(const char * text) {
        static const char BEGINS_TENSORS[] = "load_tensors: loading model tensors";
        if (running != nullptr && running->header_read == 0 && std::strncmp(text, BEGINS_TENSORS, sizeof BEGINS_TENSORS - 1) == 0) {
            running->header_read = ggml_time_us();
        }
    }
    void progressed() {
        if (mapped == 0) mapped = ggml_time_us();
    }
    lp_load_phases phases() const { return { header_read - began, mapped - header_read, ggml_time_us() - mapped }; }
};
thread_local LoadClock * LoadClock::running;
}

// ggml-cuda's words. The host's memory is never called by the name of this function.
static bool gpu_is_full() { return std::strstr(first_error, "cudaMalloc failed") != nullptr; }

void lp_log(int32_t level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR && first_error[0] == 0) {
        std::snprintf(first_error, sizeof first_error, "%.*s", static_cast<int>(std::strcspn(text, "\n")), text);
    }
    LoadClock::logged(text);
    const llamapen::Outside outside;
    log_sink(level, text);
}

// A thread died while it used a GPU. Its backend may have kept locks, and after some errors no call of CUDA succeeds in this
// process any more: what is on GPUs is not freed from then on.
static std::atomic<bool> gpus_are_lost;

void lp_gpus_lost(void) { gpus_are_lost = true; }

void lp_gpu_abort(const char * message) {
    gpus_are_lost = true;
    lp_pen_abort(message);
}

LP_Status lp_backend_add(void * backend, lp_error * error) {
    return guarded(error, LP_EXCEPTION, [&] {
        ggml_backend_register(static_cast<ggml_backend_reg_t>(backend));
        return LP_OK;
    });
}

// Of the CUDA backend, which is the only one beside the CPU's.
static ggml_backend_dev_t device(uint32_t index) {
    const ggml_backend_reg_t cuda = ggml_backend_reg_by_name("CUDA");
    if (cuda == nullptr || index >= ggml_backend_reg_dev_count(cuda)) {
        throw std::runtime_error("there is no GPU" + std::to_string(index) + " here; it was there when the engine was prepared");
    }
    return ggml_backend_reg_dev_get(cuda, index);
}

// The index of the GPU that buffers of this type are on, or -1. Pinned memory is a GPU's type, and the host's.
static int32_t device_of(ggml_backend_buffer_type_t type) {
    const ggml_backend_dev_t device = ggml_backend_buft_get_device(type);
    const ggml_backend_reg_t cuda = ggml_backend_reg_by_name("CUDA");
    if (device == nullptr || cuda == nullptr || ggml_backend_buft_is_host(type)) return -1;
    for (size_t i = 0; i < ggml_backend_reg_dev_count(cuda); i++) {
        if (ggml_backend_reg_dev_get(cuda, i) == device) return static_cast<int32_t>(i);
    }
    return -1;
}

// Of the file's pages, which the loader read all, those whose weights were rearranged into a buffer are not used again, nor are
// most of the embeddings, a row per token. They leave this process; the system's cache keeps them, and they come back where needed.
static void unmap_unused(const llama_model & model) {
    const bool looked_up = model.output != nullptr && model.tok_embd != nullptr && model.output->data != model.tok_embd->data;
    std::map<ggml_backend_buffer_t, std::map<char *, char *>> used;
    for (const auto & [name, tensor] : model.tensors_by_name) {
        if (tensor->buffer == nullptr || std::strcmp(ggml_backend_buffer_name(tensor->buffer), "CPU_Mapped") != 0) continue;
        auto & stretches = used[tensor->buffer];
        char * data = static_cast<char *>(tensor->data);
        if (tensor != model.tok_embd || !looked_up) stretches[data] = data + ggml_nbytes(tensor);
    }
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto drop = [page](char * from, char * end) {
        char * first = from + (page - reinterpret_cast<uintptr_t>(from) % page) % page;
        if (first + page > end) return;
        const size_t size = static_cast<size_t>(end - first) / page * page;
        // Or a small tensor beside it would bring it back, where the page cache has the file in huge pages.
        madvise(first, size, MADV_NOHUGEPAGE);
        // Of a shared mapping: what is read again is the file.
        madvise(first, size, MADV_DONTNEED);
    };
    for (const auto & [buffer, stretches] : used) {
        char * from = static_cast<char *>(ggml_backend_buffer_get_base(buffer));
        char * end = from + ggml_backend_buffer_get_size(buffer);
        for (const auto & [first, last] : stretches) {
            drop(from, first);
            from = last;
        }
        drop(from, end);
    }
}

// Embeddings that are the output layer, too, were rearranged for that and are still in the file for looking rows up. Those are
// looked up where they were rearranged: the system would map sixteen pages of the file around each.
static void look_up_in_output(llama_model & model) {
    if (model.output == nullptr || model.tok_embd == nullptr || std::strcmp(model.output->name, model.tok_embd->name) != 0) return;
    const bool rearranged = model.output->buffer != nullptr && std::strcmp(ggml_backend_buffer_name(model.output->buffer), "CPU_LANES") == 0;
    if (rearranged) model.tok_embd = model.output;
}

// Weights that lie in memory of their own, rearranged or read from the file, are not written again. As with those that are
// mapped, a wild write then ends at them, and does not change what all workers compute.
static void protect_weights(const llama_model & model) {
    std::set<void *> places;
    for (const auto & [name, tensor] : model.tensors_by_name) {
        if (tensor->buffer != nullptr) places.insert(ggml_backend_buffer_get_base(tensor->buffer));
    }
    // A mapped file is read-only anyway, and what is on a GPU is no block: nothing happens to either.
    for (void * place : places) lp_pen_protect(place);
}

lp_model * lp_model_load(const char * path, const lp_model_params * params, lp_load_phases * phases, lp_error * error) {
    return guarded(error, static_cast<lp_model *>(nullptr), [&]() -> lp_model * {
        struct Progress {
            const lp_model_params * params;
            LoadClock clock;
            bool stopped;
        } progress = { params, {}, false };
        llama_model_params native_params = llama_model_default_params();
        native_params.n_gpu_layers = static_cast<int32_t>(params->n_gpu_layers);
        // One entry after the last: the list ends with NULL, which also keeps llama.cpp from choosing by itself.
        std::vector<ggml_backend_dev_t> devices(params->n_devices + 1, nullptr);
        std::vector<float> split(llama_max_devices(), 0.0f);
        for (size_t i = 0; i < params->n_devices; i++) {
            devices[i] = device(params->devices[i]);
            split.at(i) = static_cast<float>(params->layers[i]);
        }
        native_params.devices = devices.data();
        native_params.split_mode = LLAMA_SPLIT_MODE_LAYER;
        native_params.tensor_split = split.data();
        native_params.load_mode = params->use_mmap ? (params->use_mlock ? LLAMA_LOAD_MODE_MMAP_MLOCK : LLAMA_LOAD_MODE_MMAP)
                                                   : (params->use_mlock ? LLAMA_LOAD_MODE_MLOCK : LLAMA_LOAD_MODE_NONE);
        native_params.use_extra_bufts = params->use_repack;
        native_params.progress_callback_user_data = &progress;
        native_params.progress_callback = [](float done, void * user) {
            if (lp_pen_injector != nullptr) lp_pen_injector(LP_IN_LOAD);
            const llamapen::Outside outside;
            auto * p = static_cast<Progress *>(user);
            p->clock.progressed();
            p->stopped = p->params->progress != nullptr && !p->params->progress(done, p->params->user);
            return !p->stopped;
        };
        first_error[0] = 0;
        llama_model * model = llama_model_load_from_file(path, native_params);
        if (model == nullptr && progress.stopped) {
            fail(error, LP_ABORTED, "loading was cancelled");
        } else if (model == nullptr) {
            char message[sizeof first_error + 100];
            fail(error, gpu_is_full() ? LP_GPU_OUT_OF_MEMORY : LP_FAILED, said("llama.cpp could not load the model", message));
        }
        if (model != nullptr && params->use_mmap && !params->use_mlock) unmap_unused(*model);
        if (model != nullptr) {
            look_up_in_output(*model);
            protect_weights(*model);
            *phases = progress.clock.phases();
        }
#ifdef LLAMAPEN_FAULT_INJECTION
        if (model != nullptr) {
            const ggml_tensor * of_a_layer = model->layers.empty() ? nullptr : model->layers[0].wq;
            lp_inject_weights = static_cast<volatile char *>((of_a_layer != nullptr ? of_a_layer : model->tok_embd)->data);
        }
#endif
        return reinterpret_cast<lp_model *>(model);
    });
}

void lp_model_free(lp_model * model) {
    guarded(nullptr, 0, [&] {
        if (!gpus_are_lost || native(model)->devices.empty()) llama_model_free(native(model));
        return 0;
    });
}

LP_Status lp_model_tensors(const lp_model * model, lp_tensor_fn tell, void * user, lp_error * error) {
    return guarded(error, LP_EXCEPTION, [&] {
        for (const auto & [name, tensor] : native(model)->tensors_by_name) {
            const int32_t device = tensor->buffer == nullptr ? -1 : device_of(ggml_backend_buffer_get_type(tensor->buffer));
            const llamapen::Outside outside;
            tell(name.c_str(), device, ggml_nbytes(tensor), user);
        }
        return LP_OK;
    });
}

int32_t lp_model_n_vocab(const lp_model * model) { return llama_vocab_n_tokens(vocab(model)); }

int64_t lp_tokenize(const lp_model * model, const char * text, size_t length, bool add_special, bool parse_special,
                    int32_t * tokens, size_t capacity, lp_error * error) {
    return guarded(error, static_cast<int64_t>(-1), [&]() -> int64_t {
        if (length > INT32_MAX || capacity > INT32_MAX) {
            throw std::length_error("a text or token buffer of 2 GiB or more");
        }
        const int32_t n = llama_tokenize(vocab(model), text, static_cast<int32_t>(length), tokens,
                                         static_cast<int32_t>(capacity), add_special, parse_special);
        if (n == INT32_MIN) {
            throw std::length_error("the text has more tokens than fit a 32-bit count");
        }
        return n < 0 ? -static_cast<int64_t>(n) : n;
    });
}

int64_t lp_token_to_piece(const lp_model * model, int32_t token, bool special, char * buffer, size_t capacity,
                          lp_error * error) {
    return guarded(error, static_cast<int64_t>(-1), [&]() -> int64_t {
        const int32_t n = llama_token_to_piece(vocab(model), token, buffer, static_cast<int32_t>(capacity), 0, special);
        return n < 0 ? -static_cast<int64_t>(n) : n;
    });
}

bool lp_token_is_eog(const lp_model * model, int32_t token) { return llama_vocab_is_eog(vocab(model), token); }

int64_t lp_chat_apply(const char * chat_template, const char * const * roles, const char * const * contents, size_t count,
                      bool add_assistant, char * buffer, size_t capacity, lp_error * error) {
    return guarded(error, static_cast<int64_t>(-1), [&]() -> int64_t {
        std::vector<llama_chat_message> messages(count);
        for (size_t i = 0; i < count; i++) {
            messages[i] = { roles[i], contents[i] };
        }
        const int32_t n = llama_chat_apply_template(chat_template, messages.data(), count, add_assistant, buffer,
                                                    static_cast<int32_t>(capacity));
        if (n < 0) {
            fail(error, LP_UNSUPPORTED, "llama.cpp does not know this chat template");
            return -1;
        }
        return n;
    });
}

static ggml_threadpool * pool_of(lp_context * context, uint32_t n_threads) {
    auto & pool = context->pools[n_threads];
    if (pool == nullptr) {
        ggml_threadpool_params params = ggml_threadpool_params_default(static_cast<int>(n_threads));
        params.poll = POLL_LEVEL;
        pool.reset(ggml_threadpool_new(&params));
    }
    return pool.get();
}

void lp_context_compute_with(lp_context * context, uint32_t n_threads) {
    guarded(nullptr, 0, [&] {
        if (ggml_threadpool * pool = pool_of(context, n_threads)) {
            llama_attach_threadpool(context->context.get(), pool, pool);
            llama_set_n_threads(context->context.get(), static_cast<int32_t>(n_threads), static_cast<int32_t>(n_threads));
        }
        return 0;
    });
}

lp_context * lp_context_new(lp_model * model, const lp_context_params * params, lp_error * error) {
    return guarded(error, static_cast<lp_context *>(nullptr), [&]() -> lp_context * {
        auto context = std::make_unique<lp_context>();
        ggml_threadpool * pool = pool_of(context.get(), params->n_threads);
        llama_context_params native_params = llama_context_default_params();
        native_params.n_ctx = params->n_ctx * params->n_seq;
        native_params.n_seq_max = params->n_seq;
        native_params.n_batch = params->n_ubatch;
        native_params.n_ubatch = params->n_ubatch;
        // Few tokens need logits; room for all would be n_ubatch times the vocabulary.
        native_params.n_outputs_max = params->n_outputs;
        native_params.n_threads = static_cast<int32_t>(params->n_threads);
        native_params.n_threads_batch = static_cast<int32_t>(params->n_threads);
        // KV per sequence: requests in one batch do not change each other's results.
        native_params.kv_unified = false;
        native_params.flash_attn_type = params->flash_attention ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
        native_params.type_k = context->type_k = static_cast<ggml_type>(params->kv_type_k);
        native_params.type_v = static_cast<ggml_type>(params->kv_type_v);
        native_params.swa_full = params->swa_full;
        native_params.no_perf = true;
        native_params.abort_callback = [](void * flag) {
            if (lp_pen_injector != nullptr) lp_pen_injector(LP_IN_GRAPH);
            return __atomic_load_n(static_cast<const int32_t *>(flag), __ATOMIC_RELAXED) != 0;
        };
        native_params.abort_callback_data = const_cast<int32_t *>(params->abort_flag);
        first_error[0] = 0;
        context->context.reset(llama_init_from_model(native(model), native_params));
        if (pool == nullptr || context->context == nullptr) {
            char message[sizeof first_error + 100];
            fail(error, gpu_is_full() ? LP_GPU_OUT_OF_MEMORY : LP_OUT_OF_MEMORY,
                 said("llama.cpp could not create a context, most often for lack of memory", message));
            return nullptr;
        }
        llama_attach_threadpool(context->context.get(), pool, pool);
        context->n_seq_id.assign(params->n_ubatch, 1);
        context->seq_id.resize(params->n_ubatch);
        const ggml_backend_sched_t scheduler = context->context->get_sched();
        for (int i = 0; i < ggml_backend_sched_get_n_backends(scheduler); i++) {
            const ggml_backend_t backend = ggml_backend_sched_get_backend(scheduler, i);
            if (ggml_backend_is_cpu(backend)) context->cpu = backend;
        }
        return context.release();
    });
}

static bool uses_gpus(const lp_context * context) {
    const ggml_backend_sched_t scheduler = context->context->get_sched();
    for (int i = 0; i < ggml_backend_sched_get_n_backends(scheduler); i++) {
        if (!ggml_backend_is_cpu(ggml_backend_sched_get_backend(scheduler, i))) return true;
    }
    return false;
}

void lp_context_free(lp_context * context) {
    guarded(nullptr, 0, [&] {
        if (!gpus_are_lost || !uses_gpus(context)) delete context;
        return 0;
    });
}

bool lp_context_free_dead(lp_context * context) {
    return guarded(nullptr, false, [&] {
        if (uses_gpus(context)) return false;
        for (auto & [n_threads, pool] : context->pools) pool.release();
        delete context;
        return true;
    });
}

LP_Status lp_context_memory(const lp_context * context, int32_t device, lp_memory_use * use, lp_error * error) {
    return guarded(error, LP_EXCEPTION, [&] {
        *use = {};
        for (const auto & [type, part] : llama_get_memory_breakdown(context->context.get())) {
            if (device_of(type) != device) continue;
            use->weights += part.model;
            use->cache += part.context;
            use->compute += part.compute;
        }
        return LP_OK;
    });
}

LP_Status lp_decode(lp_context * context, const int32_t * tokens, const int32_t * positions, const int32_t * sequences,
                    const int8_t * outputs, size_t n, bool per_token, lp_error * error) {
    return guarded(error, LP_EXCEPTION, [&] {
        if (n == 0 || n > context->seq_id.size()) {
            return fail(error, LP_FAILED, "a batch must have 1 to n_ubatch tokens");
        }
        for (size_t i = 0; i < n; i++) {
            context->seq_id[i] = const_cast<llama_seq_id *>(&sequences[i]);
        }
        llama_batch batch = {};
        batch.n_tokens = static_cast<int32_t>(n);
        batch.token = const_cast<llama_token *>(tokens);
        batch.pos = const_cast<llama_pos *>(positions);
        batch.n_seq_id = context->n_seq_id.data();
        batch.seq_id = context->seq_id.data();
        batch.logits = const_cast<int8_t *>(outputs);
        // ggml calls them its reference. They neither tile queries, nor split one query's keys over the threads, nor
        // multiply blocks of rows: all that depends on how many tokens there are.
        if (context->cpu != nullptr) ggml_backend_cpu_set_use_ref(context->cpu, per_token);
        int32_t code = 0;
        try {
            code = llama_decode(context->context.get(), batch);
            // GPUs work on when it returns. How long a batch took, and its errors, belong to it and not to the next.
            llama_synchronize(context->context.get());
        } catch (const std::bad_alloc & e) {
            // The compute threads may wait for this one in a barrier, for ever.
            lp_pen_no_memory(e.what());
            throw;
        } catch (const std::exception & e) {
            lp_pen_thrown(e.what());
            throw;
        }
        switch (code) {
            case 0:
                if (!context->fail_next) return LP_OK;
                context->fail_next = false;
                return fail(error, LP_FAILED, "injected failure of a decode");
            case 1: return fail(error, LP_NO_KV_SLOT, "no room in the KV cache for the batch");
            case 2: return fail(error, LP_ABORTED, "the decode was aborted");
            default: return fail(error, LP_FAILED, ("llama_decode returned " + std::to_string(code)).c_str());
        }
    });
}

const float * lp_logits(lp_context * context, int32_t i, lp_error * error) {
    return guarded(error, static_cast<const float *>(nullptr), [&]() -> const float * {
        const float * logits = llama_get_logits_ith(context->context.get(), i);
        if (logits == nullptr) {
            fail(error, LP_FAILED, "the last decode gave no logits for this token");
        }
        return logits;
    });
}

int32_t lp_seq_cut(lp_context * context, int32_t sequence, int32_t from, lp_error * error) {
    return guarded(error, -1, [&] {
        return llama_memory_seq_rm(llama_get_memory(context->context.get()), sequence, from, -1) ? 1 : 0;
    });
}

bool lp_can_shift(const lp_context * context) {
    const llama_context * native = context->context.get();
    const llama_model * model = llama_get_model(native);
    const llama_cparams & params = native->get_cparams();
    // llama.cpp rotates the keys of all sequences, most of them by nothing. That leaves them as they are only if it is a
    // rotation in place (of F16 or F32) and nothing else: YaRN and LongRoPE scale, too.
    const auto rotates = [](ggml_type type) { return type == GGML_TYPE_F16 || type == GGML_TYPE_F32; };
    return rotates(context->type_k) && llama_model_rope_type(model) != LLAMA_ROPE_TYPE_NONE &&
           params.yarn_ext_factor == 0.0f && params.yarn_attn_factor == 1.0f && !llama_model_is_recurrent(model) &&
           !llama_model_is_hybrid(model) && llama_memory_can_shift(llama_get_memory(native));
}

int32_t lp_seq_shift(lp_context * context, int32_t sequence, int32_t from, int32_t n, lp_error * error) {
    return guarded(error, -1, [&] {
        const llama_memory_t memory = llama_get_memory(context->context.get());
        if (!llama_memory_seq_rm(memory, sequence, from, from + n)) return 0;
        llama_memory_seq_add(memory, sequence, from + n, -1, -n);
        return 1;
    });
}

int32_t lp_seq_first(const lp_context * context, int32_t sequence, lp_error * error) {
    return guarded(error, -2, [&] {
        return llama_memory_seq_pos_min(llama_get_memory(context->context.get()), sequence);
    });
}

size_t lp_state_size(lp_context * context, int32_t sequence, lp_error * error) {
    return guarded(error, static_cast<size_t>(0), [&] {
        const size_t size = llama_state_seq_get_size(context->context.get(), sequence);
        if (size == 0) {
            fail(error, LP_FAILED, "llama.cpp cannot say how large the state of the sequence is; its log says why");
        }
        return size;
    });
}

size_t lp_state_save(lp_context * context, int32_t sequence, uint8_t * bytes, size_t size, lp_error * error) {
    return guarded(error, static_cast<size_t>(0), [&] {
        const size_t written = llama_state_seq_get_data(context->context.get(), bytes, size, sequence);
        if (written == 0) {
            fail(error, LP_FAILED, "llama.cpp could not save the state of the sequence; its log says why");
        }
        return written;
    });
}

bool lp_state_load(lp_context * context, int32_t sequence, const uint8_t * bytes, size_t size, lp_error * error) {
    return guarded(error, false, [&] {
        if (llama_state_seq_set_data(context->context.get(), bytes, size, sequence) == size) {
            return true;
        }
        llama_memory_seq_rm(llama_get_memory(context->context.get()), sequence, -1, -1);
        fail(error, LP_FAILED, "llama.cpp could not restore the state of the sequence; its log says why");
        return false;
    });
}

void lp_fault_decode(lp_context * context) { context->fail_next = true; }

LP_Status lp_fault_throw(lp_error * error) {
    return guarded(error, LP_EXCEPTION, [&]() -> LP_Status {
#ifdef LLAMAPEN_FAULT_INJECTION
        throw std::runtime_error("injected C++ exception");
#else
        return fail(error, LP_UNSUPPORTED, "this build has no fault injection");
#endif
    });
}
