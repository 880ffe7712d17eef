// What the rest of the engine and the shim call of the CPU backend, by name, with C linkage; every level has to have it. A function
// that is missing here is an undefined symbol when a build with levels is linked.

EXPORT(ggml_backend_cpu_reg)
EXPORT(ggml_backend_cpu_set_use_ref)
EXPORT(ggml_backend_is_cpu)
EXPORT(ggml_threadpool_free)
EXPORT(ggml_threadpool_new)
EXPORT(lp_lanes_register)
