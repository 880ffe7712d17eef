// lanes.h for x86-64: AVX2, AVX-512, and either with VNNI, as the compiler was told. The results are the same bits.
#include "lanes.h"

#ifdef LP_LANES
#include <immintrin.h>

#include <cmath>
#include <cstring>

namespace llamapen::lanes {
namespace {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
struct Simd {
    using Int = __m512i;
    using Float = __m512;
    static constexpr int64_t LANES = 16;
    // Registers are left for the sums of this many columns.
    static constexpr int64_t COLUMNS = 8;

    static Int load(const uint8_t * p) { return _mm512_loadu_si512(p); }
    static Int broadcast(int32_t v) { return _mm512_set1_epi32(v); }
    static Int low(Int v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
    static Int high(Int v) { return low(_mm512_srli_epi16(v, 4)); }
    static Int add16(Int a, Int b) { return _mm512_add_epi16(a, b); }
    static Int add32(Int a, Int b) { return _mm512_add_epi32(a, b); }
    static Int pairs8(Int u, Int s) { return _mm512_maddubs_epi16(u, s); }
    static Int pairs16(Int v) { return _mm512_madd_epi16(v, _mm512_set1_epi16(1)); }
    static Int abs8(Int v) { return _mm512_abs_epi8(v); }
    static Int with_sign(Int v, Int s) { return _mm512_mask_sub_epi8(v, _mm512_movepi8_mask(s), _mm512_setzero_si512(), v); }
#ifdef __AVX512VNNI__
#define LP_VNNI 1
    static Int quads8(Int sum, Int u, Int s) { return _mm512_dpbusd_epi32(sum, u, s); }
#endif
    static Float zero() { return _mm512_setzero_ps(); }
    static Float splat(float v) { return _mm512_set1_ps(v); }
    static Float halves(const uint8_t * p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p)); }
    static Float floats(Int v) { return _mm512_cvtepi32_ps(v); }
    static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
    static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
    static void store(float * p, Float v) { _mm512_storeu_ps(p, v); }
};
#else
struct Simd {
    using Int = __m256i;
    using Float = __m256;
    static constexpr int64_t LANES = 8;
    static constexpr int64_t COLUMNS = 4;

    static Int load(const uint8_t * p) { return _mm256_loadu_si256((const __m256i *) p); }
    static Int broadcast(int32_t v) { return _mm256_set1_epi32(v); }
    static Int low(Int v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
    static Int high(Int v) { return low(_mm256_srli_epi16(v, 4)); }
    static Int add16(Int a, Int b) { return _mm256_add_epi16(a, b); }
    static Int add32(Int a, Int b) { return _mm256_add_epi32(a, b); }
    static Int pairs8(Int u, Int s) { return _mm256_maddubs_epi16(u, s); }
    static Int pairs16(Int v) { return _mm256_madd_epi16(v, _mm256_set1_epi16(1)); }
    static Int abs8(Int v) { return _mm256_abs_epi8(v); }
    static Int with_sign(Int v, Int s) { return _mm256_sign_epi8(v, s); }
#ifdef __AVXVNNI__
#define LP_VNNI 1
    static Int quads8(Int sum, Int u, Int s) { return _mm256_dpbusd_avx_epi32(sum, u, s); }
#endif
    static Float zero() { return _mm256_setzero_ps(); }
    static Float splat(float v) { return _mm256_set1_ps(v); }
    static Float halves(const uint8_t * p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p)); }
    static Float floats(Int v) { return _mm256_cvtepi32_ps(v); }
    static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
    static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
    static void store(float * p, Float v) { _mm256_storeu_ps(p, v); }
};
#endif

// Sums of products of unsigned weights and signed activations. Of the weights of Q8_0 VNNI gets 128 too much; what that adds is
// taken off again. Without VNNI 16 bits hold the sum of a block for four bit weights, 8 * 2 * 15 * 127 = 30480, and that of two
// products for eight bit ones, 2 * 128 * 127 = 32512.
#ifdef LP_VNNI
constexpr int32_t BYTE_OFFSET = 128;
inline Simd::Int add_nibbles(Simd::Int sum, Simd::Int weights, Simd::Int values) { return Simd::quads8(sum, weights, values); }
inline Simd::Int add_bytes(Simd::Int sum, Simd::Int weights, Simd::Int values) { return Simd::quads8(sum, weights, values); }
inline Simd::Int sum_of_nibbles(Simd::Int sum) { return sum; }
#else
constexpr int32_t BYTE_OFFSET = 0;
inline Simd::Int add_nibbles(Simd::Int sum, Simd::Int weights, Simd::Int values) { return Simd::add16(sum, Simd::pairs8(weights, values)); }
inline Simd::Int add_bytes(Simd::Int sum, Simd::Int weights, Simd::Int values) {
    return Simd::add32(sum, Simd::pairs16(Simd::pairs8(Simd::abs8(weights), Simd::with_sign(values, weights))));
}
inline Simd::Int sum_of_nibbles(Simd::Int sum) { return Simd::pairs16(sum); }
#endif

inline Simd::Int four_values(const Activations & block, int64_t i) {
    int32_t four;
    std::memcpy(&four, block.values + i, sizeof four);
    return Simd::broadcast(four);
}

// `half` is the first row of the lanes within the group.
template <Format F, int64_t C>
void tile(const uint8_t * group, int64_t half, int64_t blocks, const Activations * const * from, float * const * to) {
    constexpr bool bytes = F == Format::Q8_0;
    constexpr size_t scales = F == Format::Q4_1 ? 2 * ROWS * 2 : ROWS * 2;
    // What every weight of a row has too much.
    constexpr int32_t offset = F == Format::Q4_0 ? 8 : F == Format::Q8_0 ? BYTE_OFFSET : 0;
    Simd::Float sums[C];
    for (int64_t c = 0; c < C; c++) sums[c] = Simd::zero();
    for (int64_t b = 0; b < blocks; b++) {
        const uint8_t * block = group + b * block_size(F);
        const uint8_t * values = block + scales + half * 4;
        Simd::Int products[C];
        for (int64_t c = 0; c < C; c++) products[c] = Simd::broadcast(0);
        for (int64_t i = 0; i < (bytes ? 8 : 4); i++) {
            const Simd::Int weights = Simd::load(values + i * ROWS * 4);
            const Simd::Int low = Simd::low(weights), high = Simd::high(weights);
            for (int64_t c = 0; c < C; c++) {
                if constexpr (bytes) {
                    products[c] = add_bytes(products[c], weights, four_values(from[c][b], i * 4));
                } else {
                    products[c] = add_nibbles(products[c], low, four_values(from[c][b], i * 4));
                    products[c] = add_nibbles(products[c], high, four_values(from[c][b], i * 4 + 16));
                }
            }
        }
        const Simd::Float scale = Simd::halves(block + half * 2);
        for (int64_t c = 0; c < C; c++) {
            const Activations & column = from[c][b];
            Simd::Int product = bytes ? products[c] : sum_of_nibbles(products[c]);
            if constexpr (offset != 0) product = Simd::add32(product, Simd::broadcast(-offset * column.sum));
            sums[c] = Simd::fma(Simd::floats(product), Simd::mul(scale, Simd::splat(column.scale)), sums[c]);
            if constexpr (F == Format::Q4_1) {
                sums[c] = Simd::fma(Simd::halves(block + ROWS * 2 + half * 2), Simd::splat(column.scaled_sum), sums[c]);
            }
        }
    }
    for (int64_t c = 0; c < C; c++) Simd::store(to[c] + half, sums[c]);
}

template <Format F> void multiply(const uint8_t * group, int64_t blocks, int64_t columns, const Activations * const * from, float * const * to) {
    for (int64_t half = 0; half < ROWS; half += Simd::LANES) {
        int64_t c = 0;
        for (; c + Simd::COLUMNS <= columns; c += Simd::COLUMNS) tile<F, Simd::COLUMNS>(group, half, blocks, from + c, to + c);
        if constexpr (Simd::COLUMNS > 4) {
            if (columns - c >= 4) tile<F, 4>(group, half, blocks, from + c, to + c), c += 4;
        }
        switch (columns - c) {
            case 3: tile<F, 3>(group, half, blocks, from + c, to + c); break;
            case 2: tile<F, 2>(group, half, blocks, from + c, to + c); break;
            case 1: tile<F, 1>(group, half, blocks, from + c, to + c); break;
        }
    }
}

}  // namespace

void multiply(Format format, const uint8_t * group, int64_t blocks, int64_t columns, const Activations * const * from, float * const * to) {
    switch (format) {
        case Format::Q4_0: return multiply<Format::Q4_0>(group, blocks, columns, from, to);
        case Format::Q4_1: return multiply<Format::Q4_1>(group, blocks, columns, from, to);
        case Format::Q8_0: return multiply<Format::Q8_0>(group, blocks, columns, from, to);
    }
}

void quantize(const float * from, int64_t blocks, Activations * to) {
    for (int64_t b = 0; b < blocks; b++, from += BLOCK, to++) {
        __m256 v[4];
        __m256 most = _mm256_setzero_ps();
        for (int i = 0; i < 4; i++) {
            v[i] = _mm256_loadu_ps(from + 8 * i);
            most = _mm256_max_ps(most, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v[i]));
        }
        __m128 m = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
        m = _mm_max_ps(m, _mm_movehl_ps(m, m));
        const float largest = _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
        const __m256 inverse = _mm256_set1_ps(largest == 0 ? 0 : 127.0f / largest);
        __m256i q[4];
        for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
        __m256i sum = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
        const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        _mm256_storeu_si256((__m256i *) to->values, _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
        __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
        s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
        s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
        to->scale = largest / 127.0f;
        to->sum = _mm_cvtsi128_si32(s);
        to->scaled_sum = to->scale * static_cast<float>(to->sum);
    }
}

void pack(Format format, const uint8_t * from, int64_t rows, int64_t blocks, uint8_t * to) {
    // In the file a row's block is its scale, its minimum if it has one, and its values.
    const size_t scales = format == Format::Q4_1 ? 2 : 1;
    const size_t values = format == Format::Q8_0 ? 32 : 16;
    const size_t size = scales * 2 + values;
    const uint8_t flip = format == Format::Q8_0 && BYTE_OFFSET == 128 ? 0x80 : 0;
    for (int64_t group = 0; group < rows; group += ROWS) {
        for (int64_t b = 0; b < blocks; b++, to += ROWS * size) {
            for (int64_t r = 0; r < ROWS; r++) {
                const uint8_t * block = from + ((group + r) * blocks + b) * size;
                for (size_t i = 0; i < scales; i++) std::memcpy(to + (i * ROWS + r) * 2, block + i * 2, 2);
                for (size_t i = 0; i < values; i += 4) {
                    uint32_t four;
                    std::memcpy(&four, block + scales * 2 + i, 4);
                    four ^= flip * 0x01010101u;
                    std::memcpy(to + scales * ROWS * 2 + i * ROWS + r * 4, &four, 4);
                }
            }
        }
    }
}

void unpack_row(Format format, const uint8_t * group, int64_t row, int64_t blocks, float * to) {
    const bool bytes = format == Format::Q8_0;
    const size_t scales = format == Format::Q4_1 ? 2 : 1;
    const int32_t offset = bytes ? BYTE_OFFSET : format == Format::Q4_0 ? 8 : 0;
    const auto half = [](const uint8_t * from) {
        uint16_t bits;
        std::memcpy(&bits, from, sizeof bits);
        return _cvtsh_ss(bits);
    };
    for (int64_t b = 0; b < blocks; b++, group += block_size(format), to += BLOCK) {
        // Of the two zeros, that which changes no sign when it is added.
        const float scale = half(group + row * 2), least = scales == 2 ? half(group + (ROWS + row) * 2) : -0.0f;
        const uint8_t * values = group + scales * ROWS * 2 + row * 4;
        for (int64_t i = 0; i < (bytes ? BLOCK : BLOCK / 2); i++) {
            const uint8_t byte = values[i / 4 * ROWS * 4 + i % 4];
            if (bytes) {
                to[i] = static_cast<float>(BYTE_OFFSET == 0 ? static_cast<int8_t>(byte) : byte - offset) * scale;
            } else {
                to[i] = static_cast<float>((byte & 15) - offset) * scale + least;
                to[i + BLOCK / 2] = static_cast<float>((byte >> 4) - offset) * scale + least;
            }
        }
    }
}

}  // namespace llamapen::lanes
#endif
