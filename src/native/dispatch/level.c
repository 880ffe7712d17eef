// A level's table. It is compiled with the level's flags, as a part of it, and is data only: it may be read on any machine.

#include "level.h"

// 1 where the argument is a macro that is 1, else 0: `__AVX2__` becomes 1, or stays what it is.
#define SECOND(first, second, ...) second
#define MARK_1 0, 1
#define IS_MARKED(...) SECOND(__VA_ARGS__, 0, 0)
#define PASTED(value) IS_MARKED(MARK_##value)
#define IS_ONE(macro) PASTED(macro)

// Only their addresses are taken here, so their types do not matter.
#define EXPORT(name) void name(void);
#include "exports.h"
#undef EXPORT

static const lp_cpu_function functions[] = {
#define EXPORT(name) name,
#include "exports.h"
#undef EXPORT
};

const struct lp_cpu_level LP_CPU_TABLE = {
    .name = LP_CPU_LEVEL,
    .needs = 0
#define FEATURE(name, leaf, subleaf, reg, bit) | (uint64_t) IS_ONE(__##name##__) << LP_CPU_##name
#include "cpu_features.h"
#undef FEATURE
    ,
    .functions = functions,
};
