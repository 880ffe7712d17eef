/*
 * llamapen: llama.cpp behind a supervisor. The C interface.
 *
 * Generated from src/ffi/ by tests/header.rs; do not edit.
 *
 * Conventions
 *   Status      Functions return int32_t: LLAMAPEN_STATUS_*. 100 and above are errors.
 *   Errors      The last argument, `error`, may be NULL. On failure *error is a new error that the caller frees, on
 *               success it is NULL.
 *   Texts in    Pointer and length in bytes, UTF-8, no NUL needed at the end. Kept by nobody after the call.
 *   Texts out   Through a char **: end with NUL, owned by the caller, freed with llamapen_string_free; set to NULL on
 *               failure. Returned, or in a struct: owned by the object.
 *   Handles     Freed once with their *_free, in any order; NULL is fine there. NULL elsewhere is INVALID_PARAMS.
 *               A handle must not be freed while another thread is inside a call with it.
 *   Threads     Every function may be called from any thread, and on one handle from several at a time, except that
 *               llamapen_request_next takes one caller per request: a second one gets BUSY.
 *   fork        Handles cannot be used in a forked child: FORKED. Freeing one there does nothing.
 *   Callbacks   One, llamapen_progress: called only inside the call that it is given to, on the same thread. It must
 *               return; no exception and no longjmp may leave it. Nothing of the host runs on a thread of llamapen.
 *   Signals     Loading the library changes no handler, mask or environment, and prints nothing.
 */


#ifndef LLAMAPEN_H
#define LLAMAPEN_H

#include <stddef.h>
#include <stdint.h>

/**
 * Number of this interface. It grows when something is added; what exists keeps its meaning.
 */
#define LLAMAPEN_ABI_VERSION 5

/**
 * Success.
 */
#define LLAMAPEN_STATUS_OK 0

/**
 * Next event: there is one.
 */
#define LLAMAPEN_STATUS_EVENT 1

/**
 * The time given to wait is over; nothing is lost, ask again.
 */
#define LLAMAPEN_STATUS_TIMEOUT 2

/**
 * Next event: the terminal event has been given, there will never be another.
 */
#define LLAMAPEN_STATUS_END 3

/**
 * A value is out of range, a key is unknown, a text is not UTF-8.
 */
#define LLAMAPEN_STATUS_INVALID_PARAMS 100

/**
 * Another thread is using this object, which takes one at a time.
 */
#define LLAMAPEN_STATUS_BUSY 101

/**
 * The object was made before a `fork` and cannot be used in the child.
 */
#define LLAMAPEN_STATUS_FORKED 102

/**
 * Valid, but not in this version, this build or for this model.
 */
#define LLAMAPEN_STATUS_UNSUPPORTED 103

/**
 * The caller cancelled it.
 */
#define LLAMAPEN_STATUS_CANCELLED 104

/**
 * There is no regular, readable file at the path of the model.
 */
#define LLAMAPEN_STATUS_MODEL_NOT_FOUND 105

/**
 * The file of the model is no GGUF, is damaged, or would break the engine.
 */
#define LLAMAPEN_STATUS_MODEL_INVALID 106

/**
 * A serialized PreparedEngine does not fit this build, this machine or its file any more.
 */
#define LLAMAPEN_STATUS_STALE_ENGINE 107

/**
 * A file of the model does not have the digest that was given for it.
 */
#define LLAMAPEN_STATUS_DIGEST_MISMATCH 108

/**
 * Refused before queueing, for a reason that no other status names.
 */
#define LLAMAPEN_STATUS_ADMISSION_REJECT 200

/**
 * The queue is full.
 */
#define LLAMAPEN_STATUS_QUEUE_FULL 201

/**
 * The queue was full and this request was dropped from it in favour of another.
 */
#define LLAMAPEN_STATUS_QUEUE_FULL_DROP_LRU 202

/**
 * Prompt and `max_tokens` do not fit a slot's context.
 */
#define LLAMAPEN_STATUS_CONTEXT_OVERFLOW 203

/**
 * The pool exists but is not ready yet.
 */
#define LLAMAPEN_STATUS_POOL_UNREADY 204

/**
 * The pool was stopped, failed, or leaves its workers alone for a while because they failed too often (then retriable).
 */
#define LLAMAPEN_STATUS_POOL_UNAVAILABLE 205

/**
 * The deadline could not have been met.
 */
#define LLAMAPEN_STATUS_DEADLINE_UNMET 206

/**
 * The pool was stopped while the request was queued or running.
 */
#define LLAMAPEN_STATUS_DRAINING 207

/**
 * The model could not be loaded.
 */
#define LLAMAPEN_STATUS_LOAD_FAILED 300

/**
 * Memory ran out, or would: what is asked for does not fit.
 */
#define LLAMAPEN_STATUS_OUT_OF_MEMORY 301

/**
 * A device (GPU) failed.
 */
#define LLAMAPEN_STATUS_DEVICE_ERROR 302

/**
 * A deadline passed during generation.
 */
#define LLAMAPEN_STATUS_DECODE_TIMEOUT 303

/**
 * The worker that ran the request failed and was restarted.
 */
#define LLAMAPEN_STATUS_WORKER_RESET 304

/**
 * The request was running in two failures of a worker and is not tried again.
 */
#define LLAMAPEN_STATUS_POISONED_REQUEST 305

/**
 * The engine could not decode this request; the worker and its other requests go on.
 */
#define LLAMAPEN_STATUS_DECODE_FAILED 306

/**
 * A defect of llamapen: please report it.
 */
#define LLAMAPEN_STATUS_INTERNAL 400

/**
 * A worker took the request up: worker, queue_position, prompt_tokens, cached_tokens and seed are in the JSON, and for
 * "echo" the text of the prompt as prompt, with special tokens written out; else null.
 */
#define LLAMAPEN_EVENT_STARTED 1

/**
 * The next token. For "logprobs", the JSON has {"logprobs": {"logprob", "top": [{"token", "logprob", "text"}, ...]}}:
 * natural logarithms of the softmax of the raw logits, before all sampling parameters, the likeliest first.
 */
#define LLAMAPEN_EVENT_TOKEN 2

/**
 * The worker failed and the request goes on in another; nothing that was given is taken back. attempt (from 1), tokens_kept
 * and reason are in the JSON.
 */
#define LLAMAPEN_EVENT_RESTARTED 3

/**
 * The generation is complete. Terminal. Reason ("stop", "length", "stop_string" or "stop_token"), stop_string,
 * stop_token (which one; else null), usage and timings are in the JSON.
 */
#define LLAMAPEN_EVENT_FINISHED 4

/**
 * The request ended without completing. Terminal.
 */
#define LLAMAPEN_EVENT_FAILED 5

/**
 * The checked configuration of one model on this machine. Immutable; may be used by several threads and freed while
 * supervisors made from it run.
 */
typedef struct llamapen_engine llamapen_engine;

/**
 * Why a call failed. Owned by the caller; freed with llamapen_error_free.
 */
typedef struct llamapen_error llamapen_error;

/**
 * Watches a directory that supervisors write their handoff records to ("handoff_dir"). It has no thread: it looks while
 * llamapen_handoff_watcher_next is called. One caller at a time: a second one gets BUSY.
 */
typedef struct llamapen_handoff_watcher llamapen_handoff_watcher;

/**
 * For a session or a connection that will submit several requests: until it is freed, a drain waits for it, up to the
 * drain's deadline, and llamapen_lease_submit goes on being accepted meanwhile. Requests need none. It may outlive its
 * supervisor.
 */
typedef struct llamapen_lease llamapen_lease;

/**
 * A request and its events. Takes one consumer at a time; cancelling is allowed from any thread.
 */
typedef struct llamapen_request llamapen_request;

/**
 * Runs one prepared engine: loads, decodes, restarts. May be used by several threads at a time.
 */
typedef struct llamapen_supervisor llamapen_supervisor;

/**
 * Told how many bytes have been read and how many there are, before the first and then after at most 1 MiB each: 0 goes
 * on, anything else ends the call with CANCELLED. It is called on the thread of that call, and only until that call
 * returns; no lock is held, so it may call any function of llamapen. It must return: no longjmp, no C++ exception.
 */
typedef int32_t (*llamapen_progress)(uint64_t done_bytes, uint64_t total_bytes, void *user);

/**
 * One event. Set struct_size to sizeof(llamapen_event) before every call. All pointers are valid until the next call of
 * llamapen_request_next on that request, and until it is freed.
 */
typedef struct llamapen_event {
  /**
   * Set by the caller: later versions may add fields at the end.
   */
  size_t struct_size;
  /**
   * LLAMAPEN_EVENT_*.
   */
  int32_t kind;
  /**
   * FAILED: why. Otherwise 0.
   */
  int32_t status;
  /**
   * TOKEN: id in the model's vocabulary. Otherwise -1.
   */
  int32_t token;
  /**
   * TOKEN: counted from 0. Otherwise 0.
   */
  uint32_t index;
  /**
   * TOKEN: its text, always whole UTF-8; may be empty, may hold NUL, has no NUL at its end.
   * FINISHED: text that was held back: it might have become a stop string, or its last code point is incomplete.
   * FAILED: what happened and what to do. Otherwise empty. Never NULL.
   */
  const char *text;
  /**
   * Bytes of text.
   */
  size_t text_len;
  /**
   * The whole event as JSON, without logits. Ends with NUL.
   */
  const char *json;
  /**
   * Bytes of json without the NUL.
   */
  size_t json_len;
  /**
   * TOKEN of a request with "logits": the raw logits it was picked from. Otherwise NULL.
   */
  const float *logits;
  /**
   * Number of logits: one per entry of the vocabulary.
   */
  size_t logits_len;
} llamapen_event;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * LLAMAPEN_ABI_VERSION of the loaded library. A program built with a larger one may miss functions in it.
 */
uint32_t llamapen_abi_version(void);

/**
 * Version of the library, such as "0.1.0". Static.
 */
const char *llamapen_version(void);

/**
 * What the library was built from, as JSON: versions, compiler, flags, features, engine_digest; "cpu_levels": what its CPU
 * kernels were compiled for, from the least to the best ([{"name", "flags", "features"}]), empty if only once. Which of them
 * runs here, llamapen_machine tells as "cpu_level". Freed with llamapen_string_free.
 */
int32_t llamapen_build_info_json(char **json,
                                 struct llamapen_error **error);

/**
 * Frees a text that a function gave through a char **. NULL is fine.
 */
void llamapen_string_free(char *text);

/**
 * Name of a status without its prefix, such as "CONTEXT_OVERFLOW"; "UNKNOWN" for another number. Static.
 */
const char *llamapen_status_name(int32_t status);

/**
 * Status of the error, the same number the call returned; LLAMAPEN_STATUS_OK for NULL.
 */
int32_t llamapen_error_status(const struct llamapen_error *error);

/**
 * What went wrong, where, and what to do: UTF-8, ends with NUL, lives as long as the error. "" for NULL.
 */
const char *llamapen_error_message(const struct llamapen_error *error);

/**
 * 1 if the same call may succeed later, otherwise 0.
 */
int32_t llamapen_error_retriable(const struct llamapen_error *error);

/**
 * When to try again, in milliseconds from now; -1 if that is not known.
 */
int64_t llamapen_error_retry_after_ms(const struct llamapen_error *error);

/**
 * Which rule refused a request or a lease: "queue", "context", "drain", "breaker", "quarantine" or "state"; "" for
 * other errors and NULL. Static.
 */
const char *llamapen_error_policy(const struct llamapen_error *error);

/**
 * Frees an error. NULL is fine.
 */
void llamapen_error_free(struct llamapen_error *error);

/**
 * The stable facts of this machine, as far as this process may use it, as JSON: CPUs, memory and limits in bytes
 * (null: none, or unknown), "cpu_features", "cpu_level" (which CPU kernels of this library run there; only of one that has
 * several), and "devices" as llamapen_devices gives them. Equal machines give equal
 * bytes. It can be kept, changed, and given to llamapen_prepare_with as "machine". Freed with llamapen_string_free.
 *
 * with_devices: not 0 asks the GPU driver, in a build that can use GPUs. After that a child made by fork cannot use
 * CUDA. 0 leaves the driver alone: its state is "not_asked".
 */
int32_t llamapen_machine(int32_t with_devices,
                         char **json,
                         struct llamapen_error **error);

/**
 * The GPUs that this process sees, as JSON: "driver" ({"state": "present", "absent" or "failed", ...}), "devices"
 * ([{"index", "name", "total_bytes", ...}]) and "broken" (those that are there but do not answer, and why). Asks NVIDIA's
 * driver in any build, without a context: no device memory is taken, but a child made by fork afterwards cannot use
 * CUDA. No driver is no error. Freed with llamapen_string_free.
 */
int32_t llamapen_devices(char **json,
                         struct llamapen_error **error);

/**
 * What the model is that `model` names, as JSON: "id", "files" ([{"path", "bytes"}]) and "info" (what its header says:
 * architecture, sizes, quantization, chat template, ...). Needs no engine to be possible: encoders and models that are
 * too large for this machine are described too. Reads headers, never weights. Freed with llamapen_string_free.
 *
 * model: as "model" of llamapen_prepare. options: as llamapen_prepare_with takes them, for the sake of "hub".
 * Errors: INVALID_PARAMS, MODEL_NOT_FOUND, MODEL_INVALID, UNSUPPORTED (the model is elsewhere).
 */
int32_t llamapen_model_info(const char *model,
                            size_t model_len,
                            const char *options,
                            size_t options_len,
                            char **json,
                            struct llamapen_error **error);

/**
 * Computes the digest of the file at `path`, such as "sha256:9f86...": the form that the key "digest" of a
 * configuration takes. Reads the whole file, on this thread; progress may be NULL. Freed with llamapen_string_free.
 * Errors: INVALID_PARAMS, MODEL_NOT_FOUND, MODEL_INVALID (it changed meanwhile), CANCELLED (by progress).
 */
int32_t llamapen_digest(const char *path,
                        size_t path_len,
                        llamapen_progress progress,
                        void *user,
                        char **digest,
                        struct llamapen_error **error);

/**
 * The configuration that flags as llama.cpp's programs take them mean, as JSON in normal form, for llamapen_prepare.
 * Freed with llamapen_string_free.
 *
 * flags: `count` texts that end with NUL, as main gets them but without the name of the program, such as
 * {"-m", "model.gguf", "-c", "4096", "-ngl", "99"}. Every key of a configuration is a flag too: "--n-ctx=4096",
 * "--shrink-slots=1". A model must be named. Nothing is looked up: files and values are judged by llamapen_prepare.
 * Errors: INVALID_PARAMS (an unknown flag, with the nearest known one; one that is given twice; a malformed value).
 */
int32_t llamapen_config_from_flags(const char *const *flags,
                                   size_t count,
                                   char **json,
                                   struct llamapen_error **error);

/**
 * Checks a model file and this machine, and decides how to run it. Loads nothing, starts nothing, writes nothing. Where a
 * digest is given, it reads the whole file, on this thread; otherwise only its header.
 *
 * config: JSON. Unknown keys are refused by name, what is left out is chosen:
 *   "model"            required: the path of a GGUF file, of any part of a split model, or of a folder with one model in
 *                      it; or "hf:org/repo@revision/file" in the local hub cache. Nothing is ever downloaded.
 *   "digest"           "sha256:..." that the file must have; of a split model an array, one per file.
 *   "n_ctx"            positions (prompt and generated tokens) per slot, from 16 to what the model was trained with;
 *                      by default that, at most 4096.
 *   "n_ubatch"         tokens per micro-batch, 1 to 4096 and at least one per slot; 256, and 512 on GPUs.
 *   "streams"          requests that are expected to run at a time, 1 to 64: chooses "workers" and "slots" where they are left
 *                      out. On the CPU a worker for each, at most 4 and no more than cores, which share the cores; 1.
 *   "tuning"           what workers, slots and micro-batches are chosen for where they are left out: "latency" (one worker, all
 *                      cores for each token, small micro-batches), "throughput" (large ones, workers where they gain by an
 *                      estimate; 8 streams if nobody says how many), or "auto": as measured while nothing runs, half a second
 *                      in all; see "calibration" of the health. By default as "streams" says.
 *   "tuning_cache"     with "auto": a folder in which what was measured is kept for the next start; none.
 *   "threads"          compute threads, of all workers together with "share_threads", else of each; the cores that this process
 *                      may use, in the second case divided by workers.
 *   "share_threads"    true: a worker that is alone computes with all threads, several with a share each, as many as have
 *                      requests at that moment; true where "threads" is left out and there are several workers, but not if
 *                      deterministic. Otherwise workers times threads are at most the CPUs that this process may use.
 *   "workers"          workers on shared weights, each with its own context; as "streams" says, else 1.
 *   "isolation"        where workers run: "thread" (of this process), or "process": each as a child process that loads the
 *                      model itself, so that whatever becomes of it, this process goes on; "thread" on the CPU. A program
 *                      that links llamapen statically sees llamapen_worker_main_if_child.
 *   "warm_spare"       true, with "process": one loaded child more, in reserve for one that dies; false.
 *   "slots"            requests that one worker runs at a time, 1 to 64; as "streams" says, else 1.
 *   "kv_type_k", "kv_type_v"  element types of the KV cache: "f32", "f16" (default), "bf16", "q8_0", "q5_1", "q5_0",
 *                      "q4_1", "q4_0" or "iq4_nl". A quantized kv_type_v needs flash attention.
 *   "flash_attention"  true or false; true, except for models that cannot, and on GPUs for sizes of heads that those cannot.
 *   "swa_full"         true: layers with a sliding window remember every position; false.
 *   "prefix_cache"     true (default): slots keep what they computed, and a request that begins as an earlier one decodes
 *                      only the rest ("cached_tokens" of its STARTED event).
 *   "prefix_store_bytes"  host memory for saved beginnings whose slots were needed for other requests; 0: none are saved.
 *   "draft_max"        most tokens that are guessed ahead from the text itself and checked in one decode, 0 to 15: answers
 *                      are the same, and faster where they repeat; 0. A worker where they would not be the same makes no
 *                      guesses and says so ("draft_max" of its health).
 *   "devices"          GPUs that may be used: "auto" (default), "none", or indices such as "0,1", the main one first.
 *   "require_gpu"      true: fail where there is no usable GPU, instead of using the CPU; false.
 *   "n_gpu_layers"     layers on GPUs, the output layer counted as one; all, where GPUs are used.
 *   "tensor_split"     how layers are divided over several GPUs, such as "3,1"; by their memory.
 *   "memory_limit"     bytes that the model may take besides weights mapped from the file; what the machine allows.
 *   "shrink"           what may be reduced, and how far, where memory does not suffice, in this order: {"kv_type",
 *                      "slots", "n_ctx", "n_gpu_layers"}, each the least (the narrowest) that must be left;
 *                      nothing.
 *   "deterministic"    true: equal requests give equal answers, bit by bit. Needs one slot per worker, micro-batches of
 *                      at most 63 tokens and flash attention; false.
 *   "seed"             seed of requests that have none, 0 to 2^64-1; drawn for each, or 0 if deterministic.
 *   "use_mmap"         map the weights instead of reading them; true.
 *   "use_repack"       rearrange weights in memory where that makes faster kernels; if they fit. Each process holds them for itself,
 *                      and last bits differ from those of llama.cpp's plain kernels.
 *   "use_mlock"        lock the weights into memory; false.
 *   "pool_id"          name for logs and records: 1 to 128 letters, digits, '.', '_', '-', not '.' first; the model's id.
 *   "replica_id"       which of several equal pools it is; 0.
 * Errors: INVALID_PARAMS, MODEL_NOT_FOUND, MODEL_INVALID, DIGEST_MISMATCH, OUT_OF_MEMORY (it would not fit; the message
 * has the bytes and what to do), DEVICE_ERROR (a GPU is a must and cannot be used as asked), UNSUPPORTED (not by this
 * build, or not this kind of model; or a model that is not on this machine).
 */
int32_t llamapen_prepare(const char *config,
                         size_t config_len,
                         struct llamapen_engine **engine,
                         struct llamapen_error **error);

/**
 * The same, for a machine that was observed before or is not there, with progress and cancelling while digests are
 * computed. Equal config, machine and file give equal bytes.
 *
 * options: JSON, or NULL and 0. Optional: "machine" (an object as llamapen_machine gives it; by default this one,
 * observed), "hub" (the folder of the hub cache; by default by the environment, as the hub's own tools find it) and
 * "digest_cache" (a folder for verified digests, so that an unchanged file is not read again; by default none, and
 * nothing is written). Unknown keys are refused by name. An engine for another machine is refused with STALE_ENGINE
 * when it is started on one that does not allow it.
 * progress: NULL, or called with `user` while a digest is computed.
 * Errors: as for llamapen_prepare, and CANCELLED (by progress).
 */
int32_t llamapen_prepare_with(const char *config,
                              size_t config_len,
                              const char *options,
                              size_t options_len,
                              llamapen_progress progress,
                              void *user,
                              struct llamapen_engine **engine,
                              struct llamapen_error **error);

/**
 * Reads what llamapen_engine_json wrote. It is checked against build, machine and file when it is started.
 */
int32_t llamapen_engine_from_json(const char *json,
                                  size_t json_len,
                                  struct llamapen_engine **engine,
                                  struct llamapen_error **error);

/**
 * What was decided, and what the model's header says ("info"), as JSON. Freed with llamapen_string_free.
 */
int32_t llamapen_engine_json(const struct llamapen_engine *engine,
                             char **json,
                             struct llamapen_error **error);

/**
 * Frees an engine. NULL is fine.
 */
void llamapen_engine_free(struct llamapen_engine *engine);

/**
 * What running a configuration would do, step by step, and the memory it would take. Does none of it.
 *
 * config: as for llamapen_prepare. options: as for llamapen_prepare_with, or NULL and 0; given digests are not checked.
 * json: where {"steps": [{"kind", "detail"}], "engine": as llamapen_engine_json gives it} goes. text: where the same in
 * lines for people goes. One of the two may be NULL. Both are freed with llamapen_string_free.
 * Errors: as for llamapen_prepare.
 */
int32_t llamapen_plan(const char *config,
                      size_t config_len,
                      const char *options,
                      size_t options_len,
                      char **json,
                      char **text,
                      struct llamapen_error **error);

/**
 * Looks at everything that running a configuration needs and says what is wrong and what to do about it. What fails is
 * a check and no error of this call: OK says that there is a report, not that the model will run.
 *
 * config: as for llamapen_prepare. options: as for llamapen_prepare_with, or NULL and 0; given digests are not checked.
 * json: where {"checks": [{"name", "status": "pass", "warn" or "fail", "message", "remedy": text or null}]} goes; the
 * model will not run if one of them is "fail". text: where the same in lines for people goes. One of the two may be
 * NULL. Both are freed with llamapen_string_free. How much memory is free is that of this machine now, whatever
 * "machine" says. Errors: INVALID_PARAMS (config or options cannot be read).
 */
int32_t llamapen_preflight(const char *config,
                           size_t config_len,
                           const char *options,
                           size_t options_len,
                           char **json,
                           char **text,
                           struct llamapen_error **error);

/**
 * Starts to load the model and returns at once. Requests may be submitted right away.
 *
 * config: JSON, or NULL and 0 for the defaults. Optional: "queue_capacity" (256), "queue_full" ("reject"; or
 * "drop_oldest_batch": the batch request that has waited longest ends with QUEUE_FULL_DROP_LRU, if one waits),
 * "stall_limit_ms" (30000), "max_stall_ms" (100): longest time, 10 to 60000, that running streams wait for a piece of
 * another request's prompt, "idle_unload_ms" (0, never): after so long without a request, up to 86400000, memory is given back
 * as by llamapen_supervisor_unload, "handoff_dir" (an existing directory for a file that says what is ready, see
 * llamapen_supervisor_handoff_json). Unknown keys are refused by name.
 *
 * Restarts of workers that failed, times in milliseconds: the first one of a worker that had been ready is immediate, the
 * next waits "backoff_initial_ms" (1000), each further one twice as long up to "backoff_max_ms" (60000), give or take
 * "backoff_jitter_percent" (10; 0 to 50), "backoff_device_factor" (2; 1 to 16) times as long after a fault of a device; all
 * is forgotten once it was ready for "backoff_reset_ms" (300000). A worker's circuit breaker opens after
 * "breaker_failures" (5) in a row, or when "max_restarts" (10) within "restart_window_ms" (60000), over all workers, are used
 * up. Then the worker is left alone for "breaker_open_ms" (300000) and tried once. Ready for "breaker_stable_ms" (60000),
 * its breaker closes; failing before, it opens for twice as long, up to "breaker_open_max_ms" (3600000). While all
 * workers are out of service that way, the state is CIRCUIT_OPEN: what waits fails with POOL_UNAVAILABLE (retriable,
 * with the time until the next attempt), and so does llamapen_submit.
 *
 * "contain_faults" (true): handlers for SIGSEGV, SIGBUS, SIGFPE and SIGILL are installed once per process, which contain what
 * the engine's own threads raise in its code and hand everything else on to those that were there before. "taint": what
 * follows a contained memory fault of a worker that is a thread: "escalate_to_process" (from then on workers are child
 * processes, as with "isolation": "process"; the default where one can be started), "stop" (the supervisor, never the host;
 * the default elsewhere) or "continue". A worker that does not turn for "stall_limit_ms" is replaced; a load without progress
 * for "load_stall_limit_ms" (600000) is ended.
 *
 * "child": how workers that are child processes are run: {"sandbox" ("off"; "strict": it opens no file but the model's, and
 * reaches no network, starts no program and sees no other process, by Landlock and seccomp where the kernel has them; refused
 * where workers are threads), "memory_limit_bytes" (none; at least 16777216), "cpus" (numbers of those that it may run on; those of the host), "nice" (added
 * to the host's, -20 to 19; 0), "worker" (path of the llamapen-worker to start; it is looked for), "pid_dir" and "log_dir"
 * (existing directories for files with the processes' numbers, and with what they print; none), "stop_grace_ms" (how long one
 * that was told to end has for it, 0 to 600000; 5000)}. Where none can be started, because llamapen is linked statically and there
 * is no llamapen-worker, an engine with "isolation": "process" is refused with UNSUPPORTED and what to do.
 *
 * Requests of a worker that died go on in another, see "max_resumes" of llamapen_submit. "snapshot_tokens" (32, up to 65536;
 * 0: never): tokens after which a request's state is copied into the host's memory for that, in 2 % of a worker's time at
 * most, within "snapshot_bytes" (134217728) in all and one more per worker. "quarantine_ms" (600000, up to 86400000; 0: nobody is blamed for a crash):
 * how long a request that workers died of is refused.
 * Errors: INVALID_PARAMS, UNSUPPORTED, STALE_ENGINE, MODEL_NOT_FOUND, and as for llamapen_prepare where this machine does not allow it.
 */
int32_t llamapen_supervisor_start(const struct llamapen_engine *engine,
                                  const char *config,
                                  size_t config_len,
                                  struct llamapen_supervisor **supervisor,
                                  struct llamapen_error **error);

/**
 * Waits until a worker has decoded its first token: OK, or TIMEOUT after timeout_ms (negative: no limit).
 * The states BACKOFF and CIRCUIT_OPEN pass, and are waited for.
 * Errors: LOAD_FAILED, OUT_OF_MEMORY, CANCELLED (the load was), POOL_UNAVAILABLE (stopped).
 */
int32_t llamapen_supervisor_wait_ready(const struct llamapen_supervisor *supervisor,
                                       int64_t timeout_ms,
                                       struct llamapen_error **error);

/**
 * Ends a load that is in progress; the supervisor then has failed with CANCELLED. Without one, does nothing.
 */
int32_t llamapen_supervisor_cancel_load(const struct llamapen_supervisor *supervisor,
                                        struct llamapen_error **error);

/**
 * Closes the circuit breakers of all workers and forgets the failures and restarts that were counted. Workers that wait for
 * a restart are started at once, and requests are accepted when this returns.
 * Errors: POOL_UNAVAILABLE (stopped, or failed for good).
 */
int32_t llamapen_supervisor_reset_breaker(const struct llamapen_supervisor *supervisor,
                                          struct llamapen_error **error);

/**
 * State, "uptime_ms", "engine_version", "engine_digest", "device_mask", "slots" and "slots_free", "compute_threads" (of a worker, now), load progress (0 to 1),
 * queue depth (also by priority), leases, "reloading" (a reload is in progress; all else is
 * of the engine that requests go to), workers, the last error and its status as JSON. Waits for no decode. Freed with llamapen_string_free.
 *
 * "state": STARTING, READY (all workers are), DEGRADED (some are), BACKOFF (none is, they are restarted), CIRCUIT_OPEN (none
 * is, all failed too often and are left alone for a while), UNLOADING, UNLOADED (memory was given back, a request has it
 * loaded again), DRAINING, FAILED (the start did, the first or one after UNLOADED), STOPPED. Of each worker among
 * others "heartbeat_ms" (since its loop last turned), "memory" (by place, such as "host" and "GPU0": "planned_bytes" and
 * "allocated_bytes" of cache and compute buffers, "weights_planned_bytes", and "weights" by kind in bytes), "breaker" (CLOSED, OPEN, HALF_OPEN: on trial) and "last_crash": null, or
 * {"reason" (PANIC, CPP_EXCEPTION, ABORT, SIGNAL, STALL, HOST_OUT_OF_MEMORY, KILLED, EXITED, PROTOCOL, LOAD_FAILED, ENGINE_ERROR,
 * CUDA_ERROR, DEVICE_OUT_OF_MEMORY;
 * there may be more), "message", "at_ms" since the start, "exit": null, or of a child process {"pid", "how", "rss_bytes",
 * "output" (the last lines that it printed)}}.
 *
 * "load_phases": null, or where the time of the load went that workers share who are threads: {"header_ms", "mapping_ms" (a file that
 * is not in the page cache is read here, if "use_mmap"), "weights_ms" (copied, repacked, uploaded)}. "start_phases" of each worker:
 * null until it is ready, then {"load": null, or the same of a process, which loads for itself, "context_ms", "warm_up_ms"}.
 *
 * "calibration": null, or with "tuning": "auto" and several workers {"state" (PENDING, RUNNING, DONE, GIVEN_UP), "from_cache",
 * "rates": [{"workers" side by side, "streams" of each, "step_us" until each has a token}], "spread": over how many workers 1, 2, 3
 * and more requests are spread, empty until it is done}.
 *
 * "isolation": where workers are started now ("thread", "process"), "tainted": whether a memory fault was contained, "taint":
 * what follows one. "process" of each worker: null, or once it has loaded {"pid", "rss_bytes", "confinement": {"landlock" and "seccomp"
 * ("off", {"on": form} or {"missing": why}), "no_new_privs", "dumpable", "memory", "cpus", "nice", "oom_score_adj"}}.
 */
int32_t llamapen_supervisor_health_json(const struct llamapen_supervisor *supervisor,
                                        char **json,
                                        struct llamapen_error **error);

/**
 * What was counted since the start, as JSON: "requests" ("accepted_total", "rejected_total" and "failed_total" by status,
 * "finished_total" by reason, "cancelled_total", "resumed_total"), "queue_depth", "queue_depth_by_priority",
 * "leases", "snapshot_bytes", "load_ms", "load_phases" (and "start_phases" of workers, as in the health), "vram_used_bytes" (0 where no GPU computes),
 * "last_error" and "last_error_status", and per worker tokens, slots, restarts, crashes by reason, memory and histograms of
 * times and batch sizes. Waits for no decode. Freed with llamapen_string_free.
 */
int32_t llamapen_supervisor_metrics_json(const struct llamapen_supervisor *supervisor,
                                         char **json,
                                         struct llamapen_error **error);

/**
 * The same in Prometheus' text format, version 0.0.4, to be served as "text/plain; version=0.0.4". Of the last error, it
 * has the status only. Freed with llamapen_string_free.
 */
int32_t llamapen_supervisor_metrics_text(const struct llamapen_supervisor *supervisor,
                                         char **text,
                                         struct llamapen_error **error);

/**
 * What is ready, for those who are to bind to it, as JSON: "schema" (1), "pool_id", "replica_id", "pid", versions, digests,
 * "model_id", "model_files", "device_mask", "workers", "slots", "flags", "worker" and "ready_at_ms" (since 1970). Made when a
 * worker becomes ready, before llamapen_supervisor_wait_ready returns; NULL until then, and once the supervisor was stopped
 * or gave up. With "handoff_dir" in the configuration, the same lies there in llamapen-POOL-REPLICA.json as long, written
 * whole or not at all. After a kill it stays, with a pid that is gone. Freed with llamapen_string_free.
 */
int32_t llamapen_supervisor_handoff_json(const struct llamapen_supervisor *supervisor,
                                         char **json,
                                         struct llamapen_error **error);

/**
 * Puts another engine in the place of the one that runs. Returns when it runs, and the old one is gone; nobody's request is
 * lost on the way. One that would run the same files in the same way changes nothing.
 *
 * Where memory allows, the new engine is loaded beside the old one, which serves until the new one has decoded a token; then
 * requests go to the new one, and the old one finishes what it has accepted. Does the new one fail, or is it not ready in
 * time, the old one goes on as if nothing had happened. Where memory does not allow that, the old one finishes first.
 * Requests that come meanwhile must be such as both would accept, and wait, with their limits, for whichever comes up: if
 * the new one does not, the old one is loaded again, and is ready when this returns with the error.
 *
 * timeout_ms (negative: no limit) is for each of two steps: for the new engine to become ready, and for the old one to
 * finish; what it still has then ends with DRAINING. Leases stay, and so do the counts of requests; those of workers begin
 * anew. llamapen_supervisor_drain and llamapen_supervisor_stop end a reload. Health has "reloading" meanwhile.
 *
 * json: NULL, or where the report goes: {"changed", "beside", "duration_ms", "requests_failed"}. Freed with
 * llamapen_string_free.
 * Errors: STALE_ENGINE, INVALID_PARAMS ("handoff_dir" is gone): nothing was done. BUSY (another reload is in progress),
 * DRAINING, POOL_UNAVAILABLE (stopped, or failed for good), UNSUPPORTED (on a thread of llamapen). Of the new engine: LOAD_FAILED,
 * OUT_OF_MEMORY, CANCELLED (by llamapen_supervisor_cancel_load), POOL_UNREADY (not ready in time); the message says that the
 * old one runs, or why it does not.
 */
int32_t llamapen_supervisor_reload(const struct llamapen_supervisor *supervisor,
                                   const struct llamapen_engine *engine,
                                   int64_t timeout_ms,
                                   char **json,
                                   struct llamapen_error **error);

/**
 * Gives memory back: weights and contexts are freed as soon as no request waits or runs. Takes nothing from anybody: requests
 * go on being accepted, what waits and runs finishes first, and a request that comes afterwards has it loaded again and
 * waits in the queue, with its limits. The state is UNLOADED until then; the handoff record stays.
 *
 * OK when it is unloaded, or was already; TIMEOUT when there was no such moment within timeout_ms (negative: no limit):
 * then all stays as it is.
 * Errors: DRAINING, POOL_UNAVAILABLE (stopped, or failed for good), UNSUPPORTED (on a thread of llamapen).
 */
int32_t llamapen_supervisor_unload(const struct llamapen_supervisor *supervisor,
                                   int64_t timeout_ms,
                                   struct llamapen_error **error);

/**
 * Begins to load again what was unloaded, and returns at once; llamapen_supervisor_wait_ready waits. Does nothing if it is
 * loaded. If it cannot be loaded, the state is FAILED, as after a first start, and what waits ends with why.
 * Errors: DRAINING, POOL_UNAVAILABLE (stopped, or failed for good).
 */
int32_t llamapen_supervisor_wake(const struct llamapen_supervisor *supervisor,
                                 struct llamapen_error **error);

/**
 * Ends in order: from now on neither leases nor requests are taken (DRAINING), except requests of those who have a lease;
 * what waits or runs finishes, leases are given back, and then the supervisor stops. What is left after timeout_ms
 * (negative: no limit) ends with DRAINING, and the supervisor stops then. Returns when it is stopped; health says DRAINING
 * meanwhile. Any thread; of several calls the earliest deadline counts, and all give the same.
 *
 * json: NULL, or where the report goes: {"forced", "duration_ms", "leases_left", "requests_failed"}. Freed with
 * llamapen_string_free.
 * Errors: UNSUPPORTED (on a thread of llamapen, which would wait for itself).
 */
int32_t llamapen_supervisor_drain(const struct llamapen_supervisor *supervisor,
                                  int64_t timeout_ms,
                                  char **json,
                                  struct llamapen_error **error);

/**
 * Tries out what a host relies on, within timeout_ms in all (negative: no limit), and a tenth of a second for "log".
 * json: {"passed", "steps": [{"name", "status" ("pass", "fail", "skip": one before it failed), "message", "ms"}]}; to be
 * freed with llamapen_string_free. The steps:
 * "load" (a worker is ready), "decode" (a real decode gives a token whose logits are finite), "cancel" (ends a request and
 * frees its slot), "log" (a line comes to the tracing subscriber; C hosts have none, which the step says and passes),
 * "metrics" (have counted that: exactly, where nobody else has requests). It runs two short requests, which wait for a
 * slot like any other. OK also where a step failed.
 * Errors: UNSUPPORTED (on a thread of llamapen, which it needs itself).
 */
int32_t llamapen_supervisor_self_test(const struct llamapen_supervisor *supervisor,
                                      int64_t timeout_ms,
                                      char **json,
                                      struct llamapen_error **error);

/**
 * Ends all requests with DRAINING, stops all threads and frees the model; returns when that is done. Idempotent.
 */
int32_t llamapen_supervisor_stop(const struct llamapen_supervisor *supervisor,
                                 struct llamapen_error **error);

/**
 * Stops and frees a supervisor. Its requests stay valid and have ended. NULL is fine.
 */
void llamapen_supervisor_free(struct llamapen_supervisor *supervisor);

/**
 * Queues a request. After OK it ends with exactly one terminal event.
 *
 * request: JSON with exactly one of "prompt" (text), "messages" ([{"role", "content"}], rendered in the
 * format that llama.cpp recognises in the chat template of the model's file) and "tokens" (ids). Unknown keys are
 * refused by name. Optional, with defaults:
 *
 * Ends: "max_tokens" (what the context holds), "stop" (texts, at most 16 of 1 to 256 bytes: they are not given, and text
 * that may begin one is held back until that is decided), "stop_tokens" (ids, at most 256), "ignore_eos" (false).
 *
 * Past the end of the context: "context_shift" (false; true needs "max_tokens": half of the tokens behind the first "n_keep"
 * (0) are taken out whenever it is full, "shifted_tokens" of "usage" in all. Not with every model and KV cache).
 *
 * Speed: "draft_max" (tokens to guess ahead, at most the engine's; the engine's). "usage" of the FINISHED event has the
 * "draft_tokens" that were guessed and the "draft_accepted" that came true.
 *
 * Sampling, in the order of use: "logit_bias" ([[id, bias], ...] or {"id": bias}, -1000 to 1000, false: never),
 * "repeat_penalty" (1), "frequency_penalty" (0), "presence_penalty" (0), "penalty_last_n" (64), "dry_multiplier" (0, off),
 * "dry_base" (1.75), "dry_allowed_length" (2), "dry_penalty_last_n" (64), "dry_sequence_breakers" (["\n", ":", "\"", "*"]),
 * "top_n_sigma" (-1, off), "top_k" (40), "typical_p" (1, off), "top_p" (0.95), "min_p" (0.05), "xtc_probability" (0, off),
 * "xtc_threshold" (0.1), "min_keep" (0), "temperature" (0.8; 0 is greedy), "dynatemp_range" (0, off),
 * "dynatemp_exponent" (1). Or "mirostat" (0, off; 1 or 2) with "mirostat_tau" (5) and "mirostat_eta" (0.1): beside it only
 * "logit_bias" and "temperature" count. "seed" (drawn): equal seeds give equal texts.
 *
 * What is reported: "logprobs" (n of 0 to 20: the log probability of each token and of the n likeliest, from the raw
 * logits), "logits" (false), "echo" (false: the prompt's text in STARTED).
 *
 * Queue: "priority" ("interactive"; or "batch": taken up when no interactive request waits, and once after every 8
 * interactive ones in a row that were taken before it).
 *
 * Limits: "timeout_ms" (from submit until the end), "first_token_timeout_ms" (from submit) and "inter_token_timeout_ms"
 * (between two tokens), 1 to 86400000, after which the request ends with FAILED: DEADLINE_UNMET if no worker had taken it
 * up, else DECODE_TIMEOUT.
 *
 * Crashes: "max_resumes" (3, 0 to 1000): how often it may go on in another worker when its own dies, with RESTARTED and then
 * the next token; bit by bit as it would have gone on if the engine is "deterministic". 0: it fails with WORKER_RESET. One
 * that workers die of fails with POISONED_REQUEST, and is refused with it for the "quarantine_ms" of the supervisor.
 * Errors: POISONED_REQUEST, INVALID_PARAMS, CONTEXT_OVERFLOW, QUEUE_FULL, DRAINING, POOL_UNAVAILABLE, UNSUPPORTED.
 */
int32_t llamapen_submit(const struct llamapen_supervisor *supervisor,
                        const char *request,
                        size_t request_len,
                        struct llamapen_request **handle,
                        struct llamapen_error **error);

/**
 * Takes a lease, to be given back with llamapen_lease_free.
 * Errors: DRAINING, POOL_UNAVAILABLE (stopped, or gave up).
 */
int32_t llamapen_lease_acquire(const struct llamapen_supervisor *supervisor,
                               struct llamapen_lease **lease,
                               struct llamapen_error **error);

/**
 * As llamapen_submit, and accepted while the supervisor drains, too.
 */
int32_t llamapen_lease_submit(const struct llamapen_lease *lease,
                              const char *request,
                              size_t request_len,
                              struct llamapen_request **handle,
                              struct llamapen_error **error);

/**
 * Gives a lease back; before or after its supervisor is freed. NULL is fine.
 */
void llamapen_lease_free(struct llamapen_lease *lease);

/**
 * Watches an existing directory. It must see the same processes as those that write there (the same PID namespace).
 * Errors: INVALID_PARAMS (no such directory).
 */
int32_t llamapen_handoff_watcher_open(const char *dir,
                                      size_t dir_len,
                                      struct llamapen_handoff_watcher **watcher,
                                      struct llamapen_error **error);

/**
 * The next change, each once: EVENT with JSON, or TIMEOUT after timeout_ms (negative: no limit) with *json NULL.
 *
 * json: {"change": "appeared", "changed" (the same pool and replica is ready anew) or "gone" (the file is removed, or the
 * process has ended), "record": as of llamapen_supervisor_handoff_json}, or {"change": "problem", "path", "problem"} for a
 * file of that name that is no record: what was known stays. Freed with llamapen_string_free.
 * Errors: BUSY.
 */
int32_t llamapen_handoff_watcher_next(const struct llamapen_handoff_watcher *watcher,
                                      int64_t timeout_ms,
                                      char **json,
                                      struct llamapen_error **error);

/**
 * Takes note of a record that came another way. *news: 1 if it is newer than what is known of its pool and replica, and its
 * process lives: then it is not given as a change any more. 0 otherwise; the same record again is no news.
 *
 * record: JSON as of llamapen_supervisor_handoff_json. news may be NULL.
 * Errors: INVALID_PARAMS (no valid record), BUSY.
 */
int32_t llamapen_handoff_watcher_bind(const struct llamapen_handoff_watcher *watcher,
                                      const char *record,
                                      size_t record_len,
                                      int32_t *news,
                                      struct llamapen_error **error);

/**
 * What is known and not gone, as of the last look: a JSON array of records, by pool and replica. Freed with
 * llamapen_string_free.
 * Errors: BUSY.
 */
int32_t llamapen_handoff_watcher_records_json(const struct llamapen_handoff_watcher *watcher,
                                              char **json,
                                              struct llamapen_error **error);

/**
 * Frees a watcher. NULL is fine.
 */
void llamapen_handoff_watcher_free(struct llamapen_handoff_watcher *watcher);

/**
 * Waits at most timeout_ms (negative: no limit) for the next event.
 * EVENT: *event is filled. TIMEOUT: ask again. END: the terminal event was given before; for ever from then on.
 * Errors: BUSY (another thread waits for this request), FORKED, INVALID_PARAMS.
 */
int32_t llamapen_request_next(const struct llamapen_request *request,
                              int64_t timeout_ms,
                              struct llamapen_event *event,
                              struct llamapen_error **error);

/**
 * Ends the request now: the next event is FAILED with CANCELLED, unless it had ended before. Idempotent, any thread.
 */
int32_t llamapen_request_cancel(const struct llamapen_request *request,
                                struct llamapen_error **error);

/**
 * What ran, with which parameters, how long and how it ended, as JSON: versions, digests, seed, parameters, usage, timings,
 * and "reason" or "status". No text of prompt or answer, only a digest of the input. OK once the request has ended, whether
 * its events were read or not; TIMEOUT and NULL before: ask again. Freed with llamapen_string_free. Any thread.
 */
int32_t llamapen_request_record_json(const struct llamapen_request *request,
                                     char **json,
                                     struct llamapen_error **error);

/**
 * Frees a request, and cancels it if it has not ended; before or after its supervisor. NULL is fine.
 */
void llamapen_request_free(struct llamapen_request *request);

/**
 * For programs that have llamapen linked into them statically and want workers in processes of their own, without a second
 * program beside them: called at the very top of main, before any thread is started and any file opened. Returns at once in the
 * program itself. Where llamapen has started the program again as a worker, it runs the worker and ends the process. Programs that
 * load the shared library do not need it.
 */
void llamapen_worker_main_if_child(void);

/**
 * Not for hosts: llamapen's own launcher calls it in a process that it has started as a worker.
 */
int32_t llamapen_worker_main(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LLAMAPEN_H */
