// Chooses the level, once, when the library is loaded: before any other code of it runs, so nobody can come too early. Compiled for
// the baseline, as everything outside the levels.

#include "choose.h"

#include <stddef.h>

#ifndef LP_CPU_LEVELS

const char * lp_cpu_level(void) { return NULL; }
const char * lp_cpu_level_refused(void) { return NULL; }

#else

#include <cpuid.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "level.h"

#define LEVEL(table) extern const struct lp_cpu_level table;
#include "levels.h"
#undef LEVEL

// From the least to the best.
static const struct lp_cpu_level * const LEVELS[] = {
#define LEVEL(table) &table,
#include "levels.h"
#undef LEVEL
};
static const size_t N_LEVELS = sizeof(LEVELS) / sizeof(LEVELS[0]);

const lp_cpu_function * llamapen_cpu_functions;
static const struct lp_cpu_level * chosen;
static char refused[64];

enum reg { EAX, EBX, ECX, EDX };

static bool told(unsigned leaf, unsigned subleaf, enum reg reg, int bit) {
    unsigned regs[4];
    if (!__get_cpuid_count(leaf, subleaf, &regs[EAX], &regs[EBX], &regs[ECX], &regs[EDX])) return false;
    return regs[reg] >> bit & 1;
}

// Which registers the system saves: without that their instructions are illegal, whatever the processor has.
static unsigned saved(void) {
    const bool xgetbv_works = told(1, 0, ECX, 27);
    if (!xgetbv_works) return 0;
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static uint64_t features(void) {
    const unsigned YMM = 0x6, ZMM = 0xe6;
    const unsigned registers = saved();
    uint64_t has = 0;
#define FEATURE(name, leaf, subleaf, reg, bit) has |= (uint64_t) told(leaf, subleaf, reg, bit) << LP_CPU_##name;
#include "cpu_features.h"
#undef FEATURE
    // Every level with wider registers needs one of these two.
    if ((registers & YMM) != YMM) has &= ~((uint64_t) 1 << LP_CPU_AVX);
    if ((registers & ZMM) != ZMM) has &= ~((uint64_t) 1 << LP_CPU_AVX512F);
    return has;
}

__attribute__((constructor(101))) static void choose(void) {
    const uint64_t has = features();
    // For tests: another level than the best.
    const char * asked = getenv("LLAMAPEN_CPU_LEVEL");
    const struct lp_cpu_level * wanted = NULL;
    // A machine without the least level is told apart before anything of it runs (`MachineSnapshot::level_of`).
    chosen = LEVELS[0];
    for (size_t i = 0; i < N_LEVELS; i++) {
        if ((LEVELS[i]->needs & ~has) != 0) continue;
        chosen = LEVELS[i];
        if (asked != NULL && strcmp(asked, LEVELS[i]->name) == 0) wanted = LEVELS[i];
    }
    if (wanted != NULL) {
        chosen = wanted;
    } else if (asked != NULL) {
        strncpy(refused, asked, sizeof(refused) - 1);
    }
    llamapen_cpu_functions = chosen->functions;
}

const char * lp_cpu_level(void) { return chosen->name; }
const char * lp_cpu_level_refused(void) { return refused[0] == '\0' ? NULL : refused; }

#endif
