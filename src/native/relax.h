// Read before ggml-cpu.c (gcc's -include): replaces the busy-waiting of ggml's thread pool by one that yields.
//
// ggml waits in two places, a barrier between operations and a poll for work, and spins there with a pause instruction
// and nothing else. With more runnable threads than cores (the normal case inside a host application) the waiting
// thread burns the very core that the awaited thread needs, and decoding collapses. The vendored file is not patched:
// it defines `ggml_thread_cpu_relax(void)` and calls `ggml_thread_cpu_relax()`, and a macro can tell the two apart by
// its argument: the definition keeps its name, the calls become ours.
#pragma once

void llamapen_cpu_relax(void);

#define ggml_thread_cpu_relax(argument) LLAMAPEN_RELAX_##argument
#define LLAMAPEN_RELAX_void llamapen_unused_relax(void)
#define LLAMAPEN_RELAX_ llamapen_cpu_relax()
