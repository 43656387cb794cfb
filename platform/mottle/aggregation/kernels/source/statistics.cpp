// Sums over coordinates for a decision: squared distances from differences, inner products about an origin, norms and dots.
//
// A block of 4096 coordinates is summed in 16 lanes (8 for double) with fused multiply-adds, its lanes in double precision; block sums are
// added exactly, as integers in digits of 32 bits. A block that is not full is filled up with zeros, so that there is one code path, and a
// sum depends on the values of its block alone.
//
// For float rows a sum that left the range in which squares neither overflow nor vanish is taken again in double precision.

#include <algorithm>
#include <cmath>
#include <vector>

#include "vectors.h"

namespace {

constexpr int64_t BLOCK = 4096;
constexpr int64_t PANEL = 128;  // columns at a time: 25 rows of it stay in the first cache while all pairs are formed
constexpr int GROUP = 5;        // rows in a register tile: 25 sums and the operands fit 32 registers
constexpr int DIGITS = 68;      // as in mottle.core.exactsum

// Below, squares of floats may have lost bits to underflow (2^-126 * 2^24 * 4096); above, they may have overflowed.
constexpr double SMALLEST = 0x1p-90, LARGEST = 0x1p120;

void deposit(int64_t* digits, double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const int64_t sign = bits >> 63 ? -1 : 1;
    const uint64_t exponent = bits >> 52 & 0x7ff;
    const uint64_t mantissa = (bits & 0xfffffffffffffull) | (exponent ? 1ull << 52 : 0);
    const uint64_t shift = exponent ? exponent - 1 : 0;
    const unsigned __int128 wide = (unsigned __int128)mantissa << (shift % 32);
    int64_t* at = digits + shift / 32;
    at[0] += sign * (int64_t)(uint32_t)wide;
    at[1] += sign * (int64_t)(uint32_t)(wide >> 32);
    at[2] += sign * (int64_t)(uint32_t)(wide >> 64);
}

struct Sums {
    int64_t* digits;    // DIGITS words a sum
    uint8_t* infinite;  // whether a sum overflowed double precision
    void add(int64_t place, double value) const {
        if (std::isfinite(value)) deposit(digits + place * DIGITS, value);
        else infinite[place] = 1;
    }
};

template <class T> bool finite(const T* values, int64_t count) {
    Vec<T> probe{};
    int64_t at = 0;
    for (; at + LANES<T> <= count; at += LANES<T>) look(probe, load(values + at));
    bool fine = !any_nonzero_or_nan<T>(probe);
    for (; at < count; ++at) fine &= std::isfinite(values[at]);
    return fine;
}

// The lanes in double precision, added in a fixed tree.
double lanes_sum(Vec<double> x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }
double lanes_sum(Vec<float> x) {
    float lanes[16];
    store(lanes, x);
    return lanes_sum(widen(lanes) + widen(lanes + 8));
}

// sums[a * B + b] += f(x_a, y_b) over `num_vectors` vectors, f a squared difference or a product. On the diagonal only b > a or b >= a is used.
template <int A, int B, bool DIFFERENCE, bool DIAGONAL, class T>
void tile(const T* const* x, const T* const* y, int64_t num_vectors, Vec<T>* sums) {
    Vec<T> total[A * B];
#pragma GCC unroll 32
    for (int pair = 0; pair < A * B; ++pair) total[pair] = sums[pair];
    for (int64_t at = 0; at < num_vectors * LANES<T>; at += LANES<T>) {
        Vec<T> left[A];
#pragma GCC unroll 8
        for (int a = 0; a < A; ++a) left[a] = load(x[a] + at);
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) {
            const Vec<T> right = DIAGONAL ? left[b < A ? b : 0] : load(y[b] + at);
#pragma GCC unroll 8
            for (int a = 0; a < A; ++a) {
                if (DIAGONAL && (DIFFERENCE ? b <= a : b < a)) continue;
                if (DIFFERENCE) {
                    const Vec<T> difference = left[a] - right;
                    total[a * B + b] += difference * difference;
                } else {
                    total[a * B + b] += left[a] * right;
                }
            }
        }
    }
#pragma GCC unroll 32
    for (int pair = 0; pair < A * B; ++pair) sums[pair] = total[pair];
}

template <class T> using TileFn = void (*)(const T* const*, const T* const*, int64_t, Vec<T>*);

template <bool DIFFERENCE, class T, int A> TileFn<T> choose(int b, bool diagonal) {
    if (diagonal) return tile<A, A, DIFFERENCE, true, T>;
    switch (b) {
        case 1: return tile<A, 1, DIFFERENCE, false, T>;
        case 2: return tile<A, 2, DIFFERENCE, false, T>;
        case 3: return tile<A, 3, DIFFERENCE, false, T>;
        case 4: return tile<A, 4, DIFFERENCE, false, T>;
        default: return tile<A, 5, DIFFERENCE, false, T>;
    }
}

template <bool DIFFERENCE, class T> TileFn<T> choose(int a, int b, bool diagonal) {
    switch (a) {
        case 1: return choose<DIFFERENCE, T, 1>(b, diagonal);
        case 2: return choose<DIFFERENCE, T, 2>(b, diagonal);
        case 3: return choose<DIFFERENCE, T, 3>(b, diagonal);
        case 4: return choose<DIFFERENCE, T, 4>(b, diagonal);
        default: return choose<DIFFERENCE, T, 5>(b, diagonal);
    }
}

// All pairs of one block, kept in lanes between panels.
template <bool DIFFERENCE, class T> class Pairs {
  public:
    explicit Pairs(int64_t num_points) : n(num_points), groups((num_points + GROUP - 1) / GROUP) {
        for (int64_t g = 0; g < groups; ++g)
            for (int64_t h = g; h < groups; ++h) tiles.push_back({g, h, choose<DIFFERENCE, T>(size(g), size(h), g == h)});
        lanes.resize(tiles.size() * GROUP * GROUP);
        totals.resize(lanes.size());
    }

    void clear() { std::fill(lanes.begin(), lanes.end(), Vec<T>{}); }

    // While pairs are formed the next panel is fetched, a few rows with each tile, so that memory and arithmetic take their time together.
    void add(const T* const* points, int64_t num_vectors, const T* const* rows, int64_t next) {
        for (size_t at = 0; at < tiles.size(); ++at) {
            for (size_t i = at; i < (size_t)n; i += tiles.size())
                if (rows[i])
                    for (int64_t ahead = 0; ahead < PANEL; ahead += LANES<T>) __builtin_prefetch(rows[i] + next + ahead, 0, 2);
            tiles[at].run(points + tiles[at].g * GROUP, points + tiles[at].h * GROUP, num_vectors, &lanes[at * GROUP * GROUP]);
        }
    }

    // Adds up the lanes; to be called before `each`.
    void finish() {
        for (size_t at = 0; at < lanes.size(); ++at) totals[at] = lanes_sum(lanes[at]);
    }

    // f(i, j, sum) for every pair i < j (i <= j for products), in no particular order.
    template <class F> void each(F f) const {
        for (size_t at = 0; at < tiles.size(); ++at) {
            const int64_t g = tiles[at].g, h = tiles[at].h, width = size(h);
            for (int64_t a = 0; a < size(g); ++a)
                for (int64_t b = g == h ? a + DIFFERENCE : 0; b < width; ++b)
                    f(g * GROUP + a, h * GROUP + b, totals[at * GROUP * GROUP + a * width + b]);
        }
    }

  private:
    struct Tile { int64_t g, h; TileFn<T> run; };
    int64_t size(int64_t group) const { return std::min<int64_t>(GROUP, n - group * GROUP); }
    int64_t n, groups;
    std::vector<Tile> tiles;
    std::vector<Vec<T>> lanes;
    std::vector<double> totals;
};

int64_t pair_place(int64_t n, int64_t i, int64_t j) { return i * (2 * n - i - 1) / 2 + j - i - 1; }
int64_t product_place(int64_t n, int64_t i, int64_t j) { return i * (2 * n - i + 1) / 2 + j - i; }

template <class T> double exact_distance(const T* x, const T* y, int64_t count) {
    double sums[8] = {};
    for (int64_t at = 0; at < count; ++at) {
        const double difference = (double)x[at] - (double)y[at];
        sums[at % 8] += difference * difference;
    }
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

// Rows of a panel, filled up with zeros to whole vectors where the panel is not full.
template <class T> class Panel {
  public:
    explicit Panel(int64_t num_rows) : values(num_rows * PANEL / LANES<T>), pointers(num_rows) {}
    T* row(int64_t i) { return (T*)&values[i * PANEL / LANES<T>]; }
    const T* const* view(const T* const* rows, int64_t at, int64_t count) {
        for (size_t i = 0; i < pointers.size(); ++i) {
            if (count == PANEL) { pointers[i] = rows[i] + at; continue; }
            std::memcpy(row(i), rows[i] + at, count * sizeof(T));
            pointers[i] = pad(i, count);
        }
        return pointers.data();
    }
    const T* pad(int64_t i, int64_t count) {
        std::fill(row(i) + count, row(i) + (count + LANES<T> - 1) / LANES<T> * LANES<T>, T(0));
        return row(i);
    }
    const T* const* own() {
        for (size_t i = 0; i < pointers.size(); ++i) pointers[i] = row(i);
        return pointers.data();
    }

  private:
    std::vector<Vec<T>> values;  // vectors, not numbers, so that rows are aligned
    std::vector<const T*> pointers;
};

template <class T> bool all_zero(const T* values, int64_t count) {
    for (int64_t at = 0; at < count; ++at)
        if (values[at] != 0) return false;
    return true;
}

template <class T> int64_t vectors_in(int64_t count) { return (count + LANES<T> - 1) / LANES<T>; }

template <class T> void distances(const T* const* rows, int64_t n, int64_t start, int64_t stop, Sums sums, uint8_t* bad) {
    Pairs<true, T> pairs(n);
    Panel<T> panel(n);
    for (int64_t block = start; block < stop; block += BLOCK) {
        const int64_t end = std::min(block + BLOCK, stop), count = end - block;
        pairs.clear();
        for (int64_t at = block; at < end; at += PANEL) {
            const int64_t width = std::min(PANEL, end - at);
            pairs.add(panel.view(rows, at, width), vectors_in<T>(width), rows, at + width);
        }
        pairs.finish();
        bool suspicious = n < 2;
        pairs.each([&](int64_t, int64_t, double sum) { suspicious |= !std::isfinite(sum); });
        std::vector<int8_t> zero(n, -1);  // not known yet
        if (suspicious)
            for (int64_t i = 0; i < n; ++i) bad[i] |= !finite(rows[i] + block, count);
        pairs.each([&](int64_t i, int64_t j, double sum) {
            if (bad[i] || bad[j]) return;
            if (sizeof(T) == sizeof(float) && !(sum >= SMALLEST && sum <= LARGEST)) {
                for (int64_t row : {i, j})
                    if (zero[row] < 0) zero[row] = all_zero(rows[row] + block, count);
                sum = zero[i] && zero[j] ? 0.0 : exact_distance(rows[i] + block, rows[j] + block, count);
            }
            sums.add(pair_place(n, i, j), sum);
        });
    }
}

// y = point - origin for one panel; a point without values is zero.
template <class T> void centre(const T* point, const T* origin, int64_t count, T* y) {
    for (int64_t at = 0; at < count; ++at) y[at] = (point ? point[at] : T(0)) - (origin ? origin[at] : T(0));
}

template <class T> double exact_product(const T* x, const T* y, const T* origin, int64_t count) {
    double sums[8] = {};
    for (int64_t at = 0; at < count; ++at) {
        const double o = origin ? (double)origin[at] : 0.0;
        sums[at % 8] += ((x ? (double)x[at] : 0.0) - o) * ((y ? (double)y[at] : 0.0) - o);
    }
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

template <class T> void gram(const T* const* points, int64_t num_points, int64_t num_rows, ColumnsFn<T> median, const T* origin,
                             int64_t start, int64_t stop, Sums sums, uint8_t* bad) {
    Pairs<false, T> pairs(num_points);
    Panel<T> panel(num_points);
    std::vector<T> centre_values(BLOCK);
    std::vector<double> squares(num_points);
    for (int64_t block = start; block < stop; block += BLOCK) {
        const int64_t end = std::min(block + BLOCK, stop), count = end - block;
        const T* here = origin ? origin + block : nullptr;
        pairs.clear();
        for (int64_t at = block; at < end; at += PANEL) {
            const int64_t width = std::min(PANEL, end - at);
            if (median) median(points, at, at + width, &centre_values[at - block], nullptr), here = centre_values.data();
            for (int64_t i = 0; i < num_points; ++i) {
                centre(points[i] ? points[i] + at : nullptr, here ? here + (at - block) : nullptr, width, panel.row(i));
                panel.pad(i, width);
            }
            pairs.add(panel.own(), vectors_in<T>(width), points, at + width);
        }
        pairs.finish();
        pairs.each([&](int64_t i, int64_t j, double sum) { if (i == j) squares[i] = sum; });
        bool suspicious = false;
        for (double square : squares) suspicious |= !std::isfinite(square);
        if (suspicious)
            for (int64_t i = 0; i < num_rows; ++i) bad[i] |= !finite(points[i] + block, count);
        const auto fine = [&](int64_t i) { return sizeof(T) > sizeof(float) || squares[i] == 0 || (squares[i] >= SMALLEST && squares[i] <= LARGEST); };
        std::vector<int8_t> at_origin(num_points, 0);
        for (int64_t i = 0; i < num_points; ++i)
            if (sizeof(T) == sizeof(float) && squares[i] == 0)
                at_origin[i] = exact_product(points[i] ? points[i] + block : nullptr, points[i] ? points[i] + block : nullptr, here, count) == 0;
        pairs.each([&](int64_t i, int64_t j, double sum) {
            if ((i < num_rows && bad[i]) || (j < num_rows && bad[j])) return;
            const bool again = !fine(i) || !fine(j) || (squares[i] == 0 && !at_origin[i]) || (squares[j] == 0 && !at_origin[j]);
            if (sizeof(T) == sizeof(float) && again && !at_origin[i] && !at_origin[j])
                sum = exact_product(points[i] ? points[i] + block : nullptr, points[j] ? points[j] + block : nullptr, here, count);
            if (i != j && !std::isfinite(sum)) return;  // such a product has no value, and nobody reads it
            sums.add(product_place(num_points, i, j), sum);
        });
    }
}

// Inner products of each row with itself (reference null) or with the reference; in double precision throughout.
template <class T> void dots(const T* const* rows, int64_t n, const T* reference, int64_t start, int64_t stop, Sums sums, uint8_t* bad) {
    for (int64_t block = start; block < stop; block += BLOCK) {
        const int64_t count = std::min(block + BLOCK, stop) - block;
        for (int64_t i = 0; i < n; ++i) {
            const T* x = rows[i] + block;
            const double sum = exact_product(x, reference ? reference + block : x, (const T*)nullptr, count);
            if (!std::isfinite(sum) && !finite(x, count)) bad[i] = 1;
            else if (std::isfinite(sum) || !reference) sums.add(i, sum);
        }
    }
}

}  // namespace

#define EXPORT(T, NAME)                                                                                                                    \
    extern "C" void distances_##NAME(const T* const* rows, int64_t n, int64_t start, int64_t stop, int64_t* digits, uint8_t* infinite,    \
                                     uint8_t* bad) {                                                                                      \
        distances<T>(rows, n, start, stop, {digits, infinite}, bad);                                                                      \
    }                                                                                                                                      \
    extern "C" void gram_##NAME(const T* const* points, int64_t num_points, int64_t num_rows, ColumnsFn<T> median, const T* origin,       \
                                int64_t start, int64_t stop, int64_t* digits, uint8_t* infinite, uint8_t* bad) {                          \
        gram<T>(points, num_points, num_rows, median, origin, start, stop, {digits, infinite}, bad);                                      \
    }                                                                                                                                      \
    extern "C" void dots_##NAME(const T* const* rows, int64_t n, const T* reference, int64_t start, int64_t stop, int64_t* digits,        \
                                uint8_t* infinite, uint8_t* bad) {                                                                        \
        dots<T>(rows, n, reference, start, stop, {digits, infinite}, bad);                                                                \
    }                                                                                                                                      \
    extern "C" void finite_##NAME(const T* const* rows, int64_t n, int64_t start, int64_t stop, uint8_t* bad) {                           \
        for (int64_t i = 0; i < n; ++i) bad[i] |= !finite(rows[i] + start, stop - start);                                                 \
    }

EXPORT(float, float32)
EXPORT(double, float64)
