// Weights with a row in each lane, and their product with a few columns of activations.
//
// ggml's own dot product takes one row and one column at a time and adds up its lanes at the end. Here 16 rows lie side by
// side, so that a lane's sum is a row's: nothing is added across lanes, a column's values are broadcast, and several columns
// share one reading of the weights. Whatever the number of columns beside it, a column's sum is made of the same operations in
// the same order: the bits of a token do not depend on its batch.
//
// A group of 16 rows is a run of blocks, each of 32 values of each row:
//
//   scales     16 x f16       d of each row
//   minima     16 x f16       m of each row, Q4_1 only
//   values     64 bytes for four values of each row, those of a row in one 32 bit lane: Q4 has values i to i+3 in the low and
//              i+16 to i+19 in the high half of its bytes, for i = 0, 4, 8, 12; Q8_0 has i = 0, 4, .. 28
//
// which is as many bytes as in the file.
#pragma once
#include <cstddef>
#include <cstdint>

// From AVX2 on; elsewhere ggml's kernels are used.
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define LP_LANES 1
#endif

namespace llamapen::lanes {

constexpr int64_t ROWS = 16;
constexpr int64_t BLOCK = 32;
// The most columns that are computed together, and more than one: as many sums fit the registers.
constexpr int64_t COLUMNS = 8;

// Of four or eight bits each, with or without a minimum.
enum class Format { Q4_0, Q4_1, Q8_0 };

// 32 quantised values of a column.
struct Activations {
    int8_t values[BLOCK];
    float scale;
    // Of the values, and the same times `scale`.
    int32_t sum;
    float scaled_sum;
};

// Bytes of a block of 16 rows.
constexpr size_t block_size(Format format) {
    return ROWS * (format == Format::Q4_0 ? 18 : format == Format::Q4_1 ? 20 : 34);
}

// `rows` rows of `blocks` blocks as they are in the file, rearranged; `rows` is a multiple of 16.
void pack(Format format, const uint8_t * from, int64_t rows, int64_t blocks, uint8_t * to);

// The values of one row of a group, as ggml's own kernels decode that of the file.
void unpack_row(Format format, const uint8_t * group, int64_t row, int64_t blocks, float * to);

void quantize(const float * from, int64_t blocks, Activations * to);

// For one group of rows and `columns` columns: `to[c]` gets 16 sums.
void multiply(Format format, const uint8_t * group, int64_t blocks, int64_t columns, const Activations * const * from, float * const * to);

}  // namespace llamapen::lanes
