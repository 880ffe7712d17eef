// The way into libllamapen-cuda.so. The library has a copy of ggml of its own, whose aborts and log lines go to the engine's.

#include "backend.h"

#include "ggml-backend.h"
#include "ggml-cuda.h"
#include "ggml.h"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>

#ifndef LLAMAPEN_ENGINE_DIGEST
#error "LLAMAPEN_ENGINE_DIGEST is not defined"
#endif

namespace {

lp_cuda_host host;

constexpr char ERROR[] = "CUDA error";

// What the last error on this thread was said to be: ggml logs the text of an error, then aborts without it.
thread_local char last_error[256];

void log(ggml_log_level level, const char * text, void * user) {
    if (level == GGML_LOG_LEVEL_ERROR && std::strncmp(text, ERROR, sizeof(ERROR) - 1) == 0) {
        const char * said = text + sizeof(ERROR) - 1;
        said += std::strspn(said, ": ");
        std::snprintf(last_error, sizeof(last_error), "%.*s", static_cast<int>(std::strcspn(said, "\n")), said);
    }
    host.log(level, text, user);
}

// The number of an error, by its text. The call that failed may have cleared it where the runtime keeps it.
cudaError_t code_of(const char * said) {
    for (int code = 1; code < 1000; code++) {
        const auto error = static_cast<cudaError_t>(code);
        if (std::strcmp(cudaGetErrorString(error), said) == 0 && std::strcmp(said, cudaGetErrorString(cudaErrorUnknown)) != 0) {
            return error;
        }
    }
    return cudaPeekAtLastError();
}

// "…: CUDA error" becomes "…: CUDA error 700 (cudaErrorIllegalAddress): an illegal memory access was encountered".
void abort_with_code(const char * message) {
    const size_t length = std::strlen(message);
    const bool is_cuda = length >= sizeof(ERROR) - 1 && std::strcmp(message + length - (sizeof(ERROR) - 1), ERROR) == 0;
    if (!is_cuda) {
        host.abort(message);
        return;
    }
    static thread_local char text[1024];
    const cudaError_t code = code_of(last_error);
    if (code == cudaSuccess) {
        std::snprintf(text, sizeof(text), "%s: %s", message, last_error);
    } else {
        std::snprintf(text, sizeof(text), "%s %d (%s): %s", message, static_cast<int>(code), cudaGetErrorName(code),
                      last_error[0] ? last_error : cudaGetErrorString(code));
    }
    host.abort(text);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void * llamapen_cuda_start(const lp_cuda_host * given, const char ** why) {
    if (std::strcmp(given->engine_digest, LLAMAPEN_ENGINE_DIGEST) != 0) {
        *why = "it was built for another engine (" LLAMAPEN_ENGINE_DIGEST ")";
        return nullptr;
    }
    host = *given;
    ggml_set_abort_callback(abort_with_code);
    ggml_log_set(log, nullptr);
    try {
        ggml_backend_reg_t registration = ggml_backend_cuda_reg();
        if (!registration) {
            *why = "it made no backend";
        }
        return registration;
    } catch (...) {
        *why = "making the backend threw an exception";
        return nullptr;
    }
}
