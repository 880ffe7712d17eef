// One level of the CPU kernels, as the rest sees it: the same code as all others, compiled for other instructions.
#pragma once

#include <stdint.h>

// Its bit in a set of features.
enum lp_cpu_feature {
#define FEATURE(name, leaf, subleaf, reg, bit) LP_CPU_##name,
#include "cpu_features.h"
#undef FEATURE
    LP_CPU_FEATURES,
};

typedef void (*lp_cpu_function)(void);

struct lp_cpu_level {
    const char * name;
    // A set of features without which nothing of it may run.
    uint64_t needs;
    // In the order of exports.h.
    const lp_cpu_function * functions;
};
