// Vectors of 64 bytes, the same on every processor: the compiler splits them where registers are shorter, so that sums have the same lanes
// and therefore the same bits everywhere.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

template <class T> struct Vector;
template <> struct Vector<float> {
    typedef float type __attribute__((vector_size(64)));
    typedef int32_t mask __attribute__((vector_size(64)));
};
template <> struct Vector<double> {
    typedef double type __attribute__((vector_size(64)));
    typedef int64_t mask __attribute__((vector_size(64)));
};
template <class T> using Vec = typename Vector<T>::type;
template <class T> using Mask = typename Vector<T>::mask;
template <class T> constexpr int LANES = 64 / sizeof(T);

template <class T> static inline Vec<T> load(const T* from) {
    Vec<T> value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}

template <class T> static inline void store(T* to, Vec<T> value) { __builtin_memcpy(to, &value, sizeof value); }

template <class T> static inline Vec<T> fill(T value) { return value - Vec<T>{}; }

template <class T> static inline bool any_nonzero_or_nan(Vec<T> value) {
    for (int lane = 0; lane < LANES<T>; ++lane)
        if (!(value[lane] == 0)) return true;
    return false;
}

#if defined(__AVX512F__)
static inline Vec<float> smaller(Vec<float> a, Vec<float> b) { return (Vec<float>)_mm512_min_ps((__m512)a, (__m512)b); }
static inline Vec<float> larger(Vec<float> a, Vec<float> b) { return (Vec<float>)_mm512_max_ps((__m512)a, (__m512)b); }
static inline Vec<double> smaller(Vec<double> a, Vec<double> b) { return (Vec<double>)_mm512_min_pd((__m512d)a, (__m512d)b); }
static inline Vec<double> larger(Vec<double> a, Vec<double> b) { return (Vec<double>)_mm512_max_pd((__m512d)a, (__m512d)b); }
// value * 0 + probe: stays 0 while all values are finite.
static inline void look(Vec<float>& probe, Vec<float> v) { probe = (Vec<float>)_mm512_fmadd_ps((__m512)v, _mm512_setzero_ps(), (__m512)probe); }
static inline void look(Vec<double>& probe, Vec<double> v) { probe = (Vec<double>)_mm512_fmadd_pd((__m512d)v, _mm512_setzero_pd(), (__m512d)probe); }
#else
template <class V> static inline V smaller(V a, V b) { return a < b ? a : b; }
template <class V> static inline V larger(V a, V b) { return a > b ? a : b; }
template <class V> static inline void look(V& probe, V v) { probe = probe + v * V{}; }
#endif

// Eight values in double precision.
static inline Vec<double> widen(const double* from) { return load(from); }
static inline Vec<double> widen(const float* from) {
#if defined(__AVX512F__)
    return (Vec<double>)_mm512_cvtps_pd(_mm256_loadu_ps(from));  // which the generic form below is not compiled to
#else
    typedef float Half __attribute__((vector_size(32)));
    Half values;
    __builtin_memcpy(&values, from, sizeof values);
    return __builtin_convertvector(values, Vec<double>);
#endif
}

// A program on columns [start, stop) of some rows, written to out[0..]. Returns 1 if a row was not finite, 2 if something overflowed, 3 for both.
template <class T> using ColumnsFn = int (*)(const T* const* rows, int64_t start, int64_t stop, T* out, const T* weights);
