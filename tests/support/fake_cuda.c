/* A stand-in for NVIDIA's driver library. FAKE_CUDA says how it behaves; making a context ends the process. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUdevice;
typedef unsigned CUresult;
typedef struct {
    char bytes[16];
} CUuuid;

static int is(const char *what) {
    const char *how = getenv("FAKE_CUDA");
    return how && strcmp(how, what) == 0;
}

static int initialised;

CUresult cuInit(unsigned flags) {
    const char *fails = getenv("FAKE_CUDA_INIT");
    if (flags != 0) return 1;
    if (fails) return (CUresult)atoi(fails);
    initialised = 1;
    return 0;
}

#ifndef NO_VERSION
CUresult cuDriverGetVersion(int *version) {
    *version = 13000;
    return 0;
}
#endif

CUresult cuDeviceGetCount(int *count) {
    if (!initialised) return 3;
    *count = is("none") ? 0 : 3;
    return 0;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    if (ordinal < 0 || ordinal >= 3) return 101;
    if (is("lost") && ordinal == 1) return 46;
    *device = ordinal + 10; /* no index */
    return 0;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
    if (is("unending")) {
        memset(name, 'x', (size_t)length);
        return 0;
    }
    snprintf(name, (size_t)length, "Fake GPU %d", device - 10);
    return 0;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
    *bytes = (size_t)(device - 9) << 33;
    return 0;
}

CUresult cuDeviceGetAttribute(int *value, unsigned attribute, CUdevice device) {
    switch (attribute) {
    case 16: *value = 100 + device - 10; return 0; /* multiprocessors */
    case 18: *value = device == 12; return 0;      /* integrated */
    case 20: *value = device == 11 ? 2 : 0; return 0; /* compute mode */
    case 32:                                       /* ECC */
        if (device == 12) return 801;
        *value = device == 10;
        return 0;
    case 75: *value = 9; return 0;
    case 76: *value = device - 10; return 0;
    default: return 1;
    }
}

#ifndef OLD
CUresult cuDeviceGetPCIBusId(char *id, int length, CUdevice device) {
    snprintf(id, (size_t)length, "0000:%02x:00.0", device);
    return 0;
}

CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device) {
    for (int i = 0; i < 16; i++) uuid->bytes[i] = (char)(0xf0 + i);
    uuid->bytes[15] = (char)device;
    return 0;
}

CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) {
    cuDeviceGetUuid(uuid, device);
    if (is("mig")) uuid->bytes[0] = 1;
    return 0;
}

CUresult cuGetErrorName(CUresult error, const char **text) {
    *text = error == 100 ? "CUDA_ERROR_NO_DEVICE" : NULL;
    return *text ? 0 : 1;
}

CUresult cuGetErrorString(CUresult error, const char **text) {
    *text = error == 100 ? "no CUDA-capable device is detected" : NULL;
    return *text ? 0 : 1;
}
#endif

/* What must never be called. */
CUresult cuCtxCreate_v2(void *c, unsigned f, CUdevice d) { (void)c, (void)f, (void)d; abort(); }
CUresult cuCtxCreate_v4(void *c, void *p, unsigned f, CUdevice d) { (void)c, (void)p, (void)f, (void)d; abort(); }
CUresult cuDevicePrimaryCtxRetain(void *c, CUdevice d) { (void)c, (void)d; abort(); }
CUresult cuMemAlloc_v2(void *p, size_t n) { (void)p, (void)n; abort(); }
