// One line for each format of src/native/kernels/lanes.h: a digest of the bits of some products. Compiled for several instruction
// sets, which are to print the same.
#include "../../src/native/kernels/lanes.h"

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

using namespace llamapen::lanes;

int main() {
    constexpr int64_t BLOCKS = 5, GROUPS = 3, COUNT = 21;
    std::mt19937 random(11);
    for (const Format format : {Format::Q4_0, Format::Q4_1, Format::Q8_0}) {
        const size_t size = block_size(format) / ROWS, rows = GROUPS * ROWS;
        std::vector<uint8_t> file(rows * BLOCKS * size), packed(file.size());
        for (uint8_t & byte : file) byte = static_cast<uint8_t>(random());
        // Scales and minima that are numbers: 1.0 to 2.0, as halves.
        for (size_t i = 0; i < file.size(); i += size) {
            file[i + 1] = 0x3c;
            if (format == Format::Q4_1) file[i + 3] = 0x3c;
        }
        pack(format, file.data(), rows, BLOCKS, packed.data());
        std::vector<float> values(COUNT * BLOCKS * BLOCK), results(COUNT * rows);
        for (float & value : values) value = static_cast<float>(static_cast<int32_t>(random())) * 1e-9f;
        std::vector<Activations> columns(COUNT * BLOCKS);
        for (int64_t c = 0; c < COUNT; c++) quantize(&values[c * BLOCKS * BLOCK], BLOCKS, &columns[c * BLOCKS]);
        for (int64_t group = 0; group < GROUPS; group++) {
            const Activations * from[COUNT];
            float * to[COUNT];
            for (int64_t c = 0; c < COUNT; c++) {
                from[c] = &columns[c * BLOCKS];
                to[c] = &results[c * rows + group * ROWS];
            }
            multiply(format, &packed[group * BLOCKS * block_size(format)], BLOCKS, COUNT, from, to);
        }
        // FNV-1a.
        uint64_t digest = 14695981039346656037u;
        for (const float result : results) {
            uint32_t bits;
            std::memcpy(&bits, &result, sizeof bits);
            digest = (digest ^ bits) * 1099511628211u;
        }
        std::printf("%016" PRIx64 "\n", digest);
    }
}
