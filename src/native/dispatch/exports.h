// What the rest of the engine and the shim call of the CPU backend, by name. A function that is missing here is an undefined
// symbol when a build with levels is linked. Its header belongs into level.c.

EXPORT(ggml_backend_cpu_reg)
EXPORT(ggml_backend_cpu_set_use_ref)
EXPORT(ggml_backend_is_cpu)
EXPORT(ggml_threadpool_free)
EXPORT(ggml_threadpool_new)
