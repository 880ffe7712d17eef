// The one door between Rust and llama.cpp: plain C, no exception passes it, every text has a length.
// bindgen reads this file alone. Ownership: what lp_*_new and lp_model_load return is freed by its lp_*_free.
// Threads: a model and an lp_dry may be read from several threads; a context and a sampler belong to one thread at a time.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// How a call ended. 0 is success, so that counts and handles can be returned beside it.
typedef enum LP_Status {
    LP_OK = 0,
    LP_EXCEPTION = 1,     // a C++ exception reached the door
    LP_OUT_OF_MEMORY = 2, // std::bad_alloc, or an allocation of llama.cpp failed
    LP_FAILED = 3,        // llama.cpp reported failure; the message says what is known
    LP_ABORTED = 4,       // the abort flag, or the progress callback, ended the call
    LP_NO_KV_SLOT = 5,    // no room in the KV cache for the batch
    LP_UNSUPPORTED = 6,   // a chat template that llama.cpp does not know
    LP_GPU_OUT_OF_MEMORY = 7, // a GPU has no memory left for what was to be put there
} LP_Status;

typedef struct lp_error {
    int32_t status;     // LP_Status
    char message[500];  // UTF-8, ends with NUL, cut when longer
} lp_error;

typedef struct lp_model lp_model;
typedef struct lp_context lp_context;
typedef struct lp_sampler lp_sampler;
typedef struct lp_dry lp_dry;

// level: 1 debug, 2 info, 3 warning, 4 error, 5 continues the line before. Called from any thread.
typedef void (*lp_log_fn)(int32_t level, const char * text);
// progress: 0.0 to 1.0. Returning false ends the load.
typedef bool (*lp_progress_fn)(float progress, void * user);

// Once per process, before anything else.
LP_Status lp_backend_init(lp_log_fn log, lp_error * error);
// ggml's log callback, for a copy of ggml in another library.
void lp_log(int32_t level, const char * text, void * user);
// A backend of another library (ggml_backend_reg_t), which stays. Its devices are known from then on.
LP_Status lp_backend_add(void * backend, lp_error * error);
// ggml's abort callback for such a library: does not return on a domain's thread.
void lp_gpu_abort(const char * message);
// A thread that used a GPU has died: models and contexts on GPUs are not freed from then on.
void lp_gpus_lost(void);

typedef struct lp_model_params {
    bool use_mmap;
    bool use_repack;
    bool use_mlock;
    uint32_t n_gpu_layers;   // the last so many, the output layer counted as one
    const uint32_t * devices; // indices of the GPUs that they are on
    const uint32_t * layers;  // how many of them are on each
    size_t n_devices;
    lp_progress_fn progress; // may be NULL
    void * user;
} lp_model_params;

// Microseconds that the parts of a load took.
typedef struct lp_load_phases {
    int64_t header;  // header and vocabulary
    int64_t mapping; // the files are mapped and read ahead, buffers allocated
    int64_t weights; // copied, repacked, uploaded
} lp_load_phases;

// `phases` is written where it succeeds.
lp_model * lp_model_load(const char * path, const lp_model_params * params, lp_load_phases * phases, lp_error * error);
void lp_model_free(lp_model * model);
int32_t lp_model_n_vocab(const lp_model * model);
// A tensor of the model: its name, the index of the GPU that it is on or -1, and its bytes. The name lives for the call.
typedef void (*lp_tensor_fn)(const char * name, int32_t device, uint64_t bytes, void * user);
LP_Status lp_model_tensors(const lp_model * model, lp_tensor_fn tell, void * user, lp_error * error);

// Number of tokens, also when it exceeds capacity (then tokens is unspecified); -1 on error.
int64_t lp_tokenize(const lp_model * model, const char * text, size_t length, bool add_special, bool parse_special,
                    int32_t * tokens, size_t capacity, lp_error * error);
// Bytes of one token's text, also when they exceed capacity; -1 on error. The bytes need not be whole UTF-8.
int64_t lp_token_to_piece(const lp_model * model, int32_t token, bool special, char * buffer, size_t capacity,
                          lp_error * error);
// Ends the generation: end of text, end of turn.
bool lp_token_is_eog(const lp_model * model, int32_t token);

// Renders messages by the model's own template text. Bytes needed, also when they exceed capacity; -1 on error.
// roles and contents: count strings that end with NUL.
int64_t lp_chat_apply(const char * chat_template, const char * const * roles, const char * const * contents, size_t count,
                      bool add_assistant, char * buffer, size_t capacity, lp_error * error);

typedef struct lp_context_params {
    uint32_t n_ctx;    // positions per sequence
    uint32_t n_seq;    // sequences, each with KV of its own
    uint32_t n_ubatch; // tokens per decode at most
    uint32_t n_outputs; // of which so many with logits
    uint32_t n_threads;
    bool flash_attention;
    int32_t kv_type_k; // ggml type numbers
    int32_t kv_type_v;
    bool swa_full; // layers with a sliding window remember everything
    const int32_t * abort_flag; // not 0: the running decode ends with LP_ABORTED. Outlives the context.
} lp_context_params;

lp_context * lp_context_new(lp_model * model, const lp_context_params * params, lp_error * error);
// Batches are computed with so many threads from now on; those of other numbers sleep. Where the system gives no threads, nothing
// changes.
void lp_context_compute_with(lp_context * context, uint32_t n_threads);
// Frees the context of a dead domain, all but its thread pools, which would join threads that are gone. False: it is not on the
// CPU alone, and stays as it is.
bool lp_context_free_dead(lp_context * context);
void lp_context_free(lp_context * context);

// Bytes that llama.cpp allocated for a context and its model, in one place.
typedef struct lp_memory_use {
    uint64_t weights; // of which some may be mapped from the file
    uint64_t cache;
    uint64_t compute;
} lp_memory_use;
// `device`: index of a GPU, or -1 for the host.
LP_Status lp_context_memory(const lp_context * context, int32_t device, lp_memory_use * use, lp_error * error);

// One decode of n tokens. Arrays of n: token, position, sequence, whether its logits are wanted. `per_token`: by kernels
// that compute each token as if it were alone, so that the number of tokens decoded with it does not change its bits.
LP_Status lp_decode(lp_context * context, const int32_t * tokens, const int32_t * positions, const int32_t * sequences,
                    const int8_t * outputs, size_t n, bool per_token, lp_error * error);
// Logits of the i-th token of the last decode (n_vocab values, valid until the next decode), NULL if it has none.
const float * lp_logits(lp_context * context, int32_t i, lp_error * error);
// Forgets a sequence from a position on; 0 forgets it whole, which always succeeds. 1: done. 0: its memory cannot go back
// there, and has to be cleared. -1 on error.
int32_t lp_seq_cut(lp_context * context, int32_t sequence, int32_t from, lp_error * error);
// Whether lp_seq_shift can be used: keys are rotated in place to their new positions, and those of all others stay as they
// are, bit by bit.
bool lp_can_shift(const lp_context * context);
// Forgets n positions of a sequence from one on, and moves what is behind them there. As lp_seq_cut.
int32_t lp_seq_shift(lp_context * context, int32_t sequence, int32_t from, int32_t n, lp_error * error);
// First position that the memory of a sequence still has, -1 if it is empty, -2 on error. Above 0 where only the last
// ones are kept: then no position can be taken back.
int32_t lp_seq_first(const lp_context * context, int32_t sequence, lp_error * error);

// Bytes that the state of a sequence takes; 0 on error.
size_t lp_state_size(lp_context * context, int32_t sequence, lp_error * error);
// Writes it to `bytes`, which holds `size`. Bytes written; 0 on error.
size_t lp_state_save(lp_context * context, int32_t sequence, uint8_t * bytes, size_t size, lp_error * error);
// Makes it the state of a sequence of this context or an equal one. False: the sequence is empty now.
bool lp_state_load(lp_context * context, int32_t sequence, const uint8_t * bytes, size_t size, lp_error * error);

typedef struct lp_logit_bias {
    int32_t token;
    float bias; // -INFINITY: never
} lp_logit_bias;

// In the order in which llama.cpp's common sampler applies them, logit biases first.
typedef struct lp_sampling {
    int32_t penalty_last_n; // 0 off
    float penalty_repeat;   // 1 off
    float penalty_frequency;// 0 off
    float penalty_presence; // 0 off
    float dry_multiplier;   // 0 off
    float dry_base;         // at least 1
    int32_t dry_allowed_length;
    int32_t dry_penalty_last_n; // 0 off
    float top_n_sigma;      // 0 off
    int32_t top_k;          // 0 off
    float typical_p;        // 1 off
    float top_p;            // 1 off
    float min_p;            // 0 off
    float xtc_probability;  // 0 off
    float xtc_threshold;    // above 0.5 off
    uint32_t min_keep;      // candidates that typical_p, top_p, min_p and XTC leave at least
    float temperature;      // 0 greedy
    float dynatemp_range;   // 0 off
    float dynatemp_exponent;
    int32_t mirostat;       // 0 off, 1, 2: then only logit biases and temperature of the above apply
    float mirostat_tau;
    float mirostat_eta;
} lp_sampling;

// DRY by the dry_* of `sampling`, to be copied into samplers: making it looks at the whole vocabulary for each breaker.
// breakers: texts that end with NUL. Nothing is kept of the array, nor of the model.
lp_dry * lp_dry_new(const lp_model * model, const lp_sampling * sampling, const char * const * breakers,
                    size_t n_breakers, lp_error * error);
void lp_dry_free(lp_dry * dry);

// dry: of the same model and parameters; NULL: no DRY. Nothing is kept of it, nor of the array.
lp_sampler * lp_sampler_new(const lp_model * model, const lp_sampling * sampling, const lp_logit_bias * biases,
                            size_t n_biases, const lp_dry * dry, lp_error * error);
void lp_sampler_free(lp_sampler * sampler);
// Tells the penalties of a token that is part of the text.
LP_Status lp_sampler_accept(lp_sampler * sampler, int32_t token, lp_error * error);
// Picks a token from n_vocab logits. choice and xtc, both in [0, 1), are all the randomness there is. Mirostat learns
// from what is picked: call it once per generated token. -1 on error.
int32_t lp_sampler_pick(lp_sampler * sampler, const float * logits, double choice, double xtc, lp_error * error);

// Throws a C++ exception inside the door, to show that it stays there. Without fault injection: LP_UNSUPPORTED.
LP_Status lp_fault_throw(lp_error * error);
// The next decode that succeeds is reported as LP_FAILED.
void lp_fault_decode(lp_context * context);
// Adds a filter in which faults can be injected, and which changes nothing else.
void lp_fault_sampler(lp_sampler * sampler);

#ifdef __cplusplus
}
#endif
