// Faults of a GPU on demand, for builds with fault injection: what CUDA says of them, ggml's next call hears.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace {

__global__ void write_to(volatile int * address) { *address = 1; }

}  // namespace

// On the device that the calling thread uses: a write to where nothing is, or all its memory taken until the process ends.
extern "C" __attribute__((visibility("default"))) void llamapen_cuda_fault(bool of_memory) {
    if (!of_memory) {
        write_to<<<1, 1>>>(reinterpret_cast<volatile int *>(static_cast<uintptr_t>(0xdead0000000)));
        return;
    }
    // Down to less than a page of the GPU's.
    void * kept = nullptr;
    for (size_t bytes = size_t{1} << 40; bytes >= (size_t{1} << 20);) {
        if (cudaMalloc(&kept, bytes) != cudaSuccess) bytes /= 2;
    }
    cudaGetLastError();
}
