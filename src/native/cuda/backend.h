// What libllamapen-cuda.so offers, and what it is given. Both are built together; the digest says whether they were.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct lp_cuda_host {
    // `sha256:` over the engine that asks: what both sides know of ggml's structures has to be the same.
    const char * engine_digest;
    // ggml's abort callback. Does not return on a domain's thread.
    void (*abort)(const char * message);
    // ggml's log callback.
    void (*log)(int level, const char * text, void * user);
};

// The backend's registration (ggml_backend_reg_t), made once per process. NULL: why, in a text that stays.
//
// It asks the driver for its devices; no context is created before one of them is used.
typedef void * (*lp_cuda_start_fn)(const struct lp_cuda_host * host, const char ** why);
#define LP_CUDA_START "llamapen_cuda_start"

#ifdef __cplusplus
}
#endif
