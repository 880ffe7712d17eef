/* The embedded launcher: the program of a worker whose code is in a shared library. It loads the very file that the host has
 * loaded, and calls its entry.
 *
 *     launcher HOST LIBRARY [NEEDED...]
 *
 * HOST is the number of the host's process. NEEDED are libraries that the host found where its own search path says (conda,
 * Nix), which this program has not: loaded first, they are found by name. */
#include "settle.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    if (argc < 3) {
        fputs("This is a part of llamapen, which starts it itself.\n", stderr);
        return LP_STARTED_BY_HAND;
    }
    if (!lp_settle((pid_t)strtol(argv[1], NULL, 10)))
        return LP_HOST_IS_GONE;
    /* One that cannot be loaded is perhaps not needed either: else the library itself says so. */
    for (int i = 3; i < argc; i++)
        dlopen(argv[i], RTLD_NOW | RTLD_LOCAL);
    void *library = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "llamapen: the worker cannot load the library: %s\n", dlerror());
        return LP_LIBRARY_FAILED;
    }
    int (*entry)(void);
    *(void **)&entry = dlsym(library, "llamapen_worker_main");
    if (!entry) {
        fprintf(stderr, "llamapen: %s is no library of llamapen: %s\n", argv[2], dlerror());
        return LP_NO_ENTRY;
    }
    return entry();
}
