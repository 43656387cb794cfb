// What a decision does to the rows: weighted sums in double precision, and mixed rows for a program on columns.
//
// Compiled without fused multiply-adds: the same operations in plain torch give the same bits.

#include <algorithm>
#include <vector>

#include "vectors.h"

namespace {

constexpr int64_t STRIP = 64;   // columns summed in registers
constexpr int64_t AHEAD = 256;  // columns fetched in advance, into the second cache: hardware loses track of so many streams
constexpr int64_t PANEL = 256;  // columns mixed at a time: 25 mixed rows of it stay in the first cache

template <class T> void combine(const T* const* rows, int64_t n, const double* weights, double divisor, int64_t start, int64_t stop, T* out) {
    constexpr int NUM = STRIP / LANES<double>;
    T padded[STRIP];
    for (int64_t at = start; at < stop; at += STRIP) {
        const int64_t count = std::min(STRIP, stop - at);
        Vec<double> total[NUM] = {};
        for (int64_t i = 0; i < n; ++i) {
            const T* row = rows[i] + at;
            if (count < STRIP) {
                std::memset(padded, 0, sizeof padded);
                std::memcpy(padded, row, count * sizeof(T));
                row = padded;
            }
            for (int64_t line = 0; line < STRIP; line += LANES<T>) __builtin_prefetch(rows[i] + at + AHEAD + line, 0, 2);
            const Vec<double> weight = fill<double>(weights[i]);
#pragma GCC unroll 8
            for (int v = 0; v < NUM; ++v) total[v] += widen(row + v * LANES<double>) * weight;
        }
        alignas(64) double sums[STRIP];
#pragma GCC unroll 8
        for (int v = 0; v < NUM; ++v) store(sums + v * LANES<double>, divisor == 1 ? total[v] : total[v] / divisor);
        for (int64_t j = 0; j < count; ++j) out[at - start + j] = (T)sums[j];
    }
}

// Row m of the mixture: sum of factor[k] * rows[index[k]] for k in [offset[m], offset[m+1]), over divisor[m].
template <class T> struct Mixture {
    const int64_t* offset;
    const int64_t* index;
    const T* factor;
    const T* divisor;
};

template <class T, bool UNIT> void mix_row(const T* const* rows, const Mixture<T>& mixture, int64_t m, int64_t at, int64_t num_vectors, T* out) {
    const int64_t first = mixture.offset[m], last = mixture.offset[m + 1];
    const Vec<T> divisor = fill<T>(mixture.divisor[m]);
    constexpr int WIDE = 4;
    for (int64_t v = 0; v < num_vectors; v += WIDE) {
        Vec<T> total[WIDE];
        for (int64_t k = first; k < last; ++k) {
            const T* row = rows[mixture.index[k]] + at + v * LANES<T>;
            const Vec<T> factor = fill<T>(mixture.factor[k]);
#pragma GCC unroll 4
            for (int w = 0; w < WIDE; ++w) {
                const Vec<T> term = UNIT ? load(row + w * LANES<T>) : load(row + w * LANES<T>) * factor;
                total[w] = k == first ? term : total[w] + term;
            }
        }
#pragma GCC unroll 4
        for (int w = 0; w < WIDE; ++w) store(out + (v + w) * LANES<T>, total[w] / divisor);
    }
}

template <class T> int mix(const T* const* rows, int64_t n, int64_t num_mixed, const Mixture<T>& mixture, bool unit, ColumnsFn<T> columns,
                           const T* weights, int64_t start, int64_t stop, T* out) {
    std::vector<T> padded(n * PANEL), mixed(num_mixed * PANEL);
    std::vector<const T*> from(n), to(num_mixed);
    for (int64_t m = 0; m < num_mixed; ++m) to[m] = &mixed[m * PANEL];
    int flags = 0;
    for (int64_t at = start; at < stop; at += PANEL) {
        const int64_t count = std::min(PANEL, stop - at);
        for (int64_t i = 0; i < n; ++i) {
            from[i] = rows[i] + at;
            if (count == PANEL) continue;
            std::fill(&padded[i * PANEL], &padded[(i + 1) * PANEL], T(0));
            std::copy(rows[i] + at, rows[i] + at + count, &padded[i * PANEL]);
            from[i] = &padded[i * PANEL];
        }
        for (int64_t m = 0; m < num_mixed; ++m)
            (unit ? mix_row<T, true> : mix_row<T, false>)(from.data(), mixture, m, 0, PANEL / LANES<T>, &mixed[m * PANEL]);
        flags |= columns(to.data(), 0, count, out + (at - start), weights);
    }
    return flags;
}

}  // namespace

#define EXPORT(T, NAME)                                                                                                                    \
    extern "C" void combine_##NAME(const T* const* rows, int64_t n, const double* weights, double divisor, int64_t start, int64_t stop,   \
                                   T* out) {                                                                                              \
        combine<T>(rows, n, weights, divisor, start, stop, out);                                                                          \
    }                                                                                                                                      \
    extern "C" int mix_##NAME(const T* const* rows, int64_t n, int64_t num_mixed, const int64_t* offset, const int64_t* index,            \
                              const T* factor, const T* divisor, int unit, ColumnsFn<T> columns, const T* weights, int64_t start,         \
                              int64_t stop, T* out) {                                                                                     \
        return mix<T>(rows, n, num_mixed, {offset, index, factor, divisor}, unit != 0, columns, weights, start, stop, out);               \
    }

EXPORT(float, float32)
EXPORT(double, float64)
