// The functions of NVIDIA's driver that the kernels' memory pools call, looked up when they are called: a library that is
// linked to the driver cannot even be opened where there is none, to say so. The runtime finds the driver the same way. The
// linker reports a function that a newer llama.cpp calls and this list lacks.

#include <cuda.h>
#include <dlfcn.h>

namespace {

template <typename Function>
Function driver(const char * name) {
    // Never closed. Opened under the name that its ABI has, as the runtime opens it.
    static void * const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    return library ? reinterpret_cast<Function>(dlsym(library, name)) : nullptr;
}

}  // namespace

#define FORWARD(name, parameters, arguments)                                     \
    CUresult CUDAAPI name parameters {                                           \
        static const auto function = driver<CUresult(CUDAAPI *) parameters>(#name); \
        return function ? function arguments : CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND; \
    }

extern "C" {
FORWARD(cuDeviceGet, (CUdevice * device, int ordinal), (device, ordinal))
FORWARD(cuDeviceGetAttribute, (int * value, CUdevice_attribute attribute, CUdevice device), (value, attribute, device))
FORWARD(cuGetErrorString, (CUresult error, const char ** text), (error, text))
FORWARD(cuMemAddressFree, (CUdeviceptr address, size_t size), (address, size))
FORWARD(cuMemAddressReserve,
        (CUdeviceptr * address, size_t size, size_t alignment, CUdeviceptr wanted, unsigned long long flags),
        (address, size, alignment, wanted, flags))
FORWARD(cuMemCreate,
        (CUmemGenericAllocationHandle * handle, size_t size, const CUmemAllocationProp * properties, unsigned long long flags),
        (handle, size, properties, flags))
FORWARD(cuMemGetAllocationGranularity,
        (size_t * granularity, const CUmemAllocationProp * properties, CUmemAllocationGranularity_flags option),
        (granularity, properties, option))
FORWARD(cuMemMap,
        (CUdeviceptr address, size_t size, size_t offset, CUmemGenericAllocationHandle handle, unsigned long long flags),
        (address, size, offset, handle, flags))
FORWARD(cuMemRelease, (CUmemGenericAllocationHandle handle), (handle))
FORWARD(cuMemSetAccess, (CUdeviceptr address, size_t size, const CUmemAccessDesc * access, size_t count),
        (address, size, access, count))
FORWARD(cuMemUnmap, (CUdeviceptr address, size_t size), (address, size))
}
