// Which of the levels of the CPU kernels runs. Of a build with one level there is nothing to choose.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

// Name of the level that runs. NULL: the build has one level only. Static.
const char * lp_cpu_level(void);
// The level that LLAMAPEN_CPU_LEVEL asks for, cut to 63 bytes, where it is none of the build's or this machine cannot run it: then
// the best one runs. NULL: nothing was asked for, or it runs. Static.
const char * lp_cpu_level_refused(void);

#ifdef __cplusplus
}
#endif
