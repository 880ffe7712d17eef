// A stand-in for NVIDIA's management library: what of it is asked for the memory that is free on the GPUs of fake_cuda.c.
#include <string.h>

typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory;

static const unsigned long long free_gib[] = {3, 4, 5};

int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int error) { (void)error; return "an error"; }

// The last two digits of the UUID are the device's: see fake_cuda.c.
int nvmlDeviceGetHandleByUUID(const char *uuid, const unsigned long long **device) {
    const size_t length = strlen(uuid);
    const char last = length ? uuid[length - 1] : 0;
    if (strncmp(uuid, "GPU-", 4) != 0 || last < 'a' || last > 'c') return 6;
    *device = &free_gib[last - 'a'];
    return 0;
}

int nvmlDeviceGetMemoryInfo_v2(const unsigned long long *device, memory *told) {
    told->total = 24ull << 30;
    told->reserved = 0;
    told->free = *device << 30;
    told->used = told->total - told->free;
    return 0;
}
