/* float32 numbers in vectors, as a compiler turns them into instructions, and functions of rows of them. */
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t size;

/* Numbers in a vector, and rows of two vectors that registers hold. */
#ifdef __AVX512F__
enum { LANES = 16, ROWS = 8 };
#else
enum { LANES = 8, ROWS = 4 };
#endif
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t integers __attribute__((vector_size(4 * LANES), aligned(4)));

static inline int least(size a, size b) { return a < b ? a : b; }
static inline int whole(int n) { return (n + LANES - 1) / LANES * LANES; }
static inline lanes all(float x) { return (lanes){0} + x; }
static inline lanes load(const float *from) { return *(const lanes *)from; }
static inline void store(float *to, lanes x) { *(lanes *)to = x; }

/* a where the mask is -1, b where it is 0 */
static inline lanes choose(integers mask, lanes a, lanes b) {
    return (lanes)(((integers)a & mask) | ((integers)b & ~mask));
}

/* The first n numbers, 0 behind them. */
static inline lanes load_part(const float *from, int n) {
    float x[LANES] = {0};
    memcpy(x, from, n * sizeof(float));
    return load(x);
}

static inline void store_part(float *to, lanes x, int n) { memcpy(to, &x, n * sizeof(float)); }

static inline float sum_of(lanes x) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

static inline float largest_of(lanes x) {
    float most = x[0];
    for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
    return most;
}

/* Whether place `at` + lane is below n. */
static inline integers below(int at, int n) {
    integers place;
    for (int i = 0; i < LANES; i++) place[i] = i;
    return place < n - at;
}

/* e^x to the last digit or two, by Cephes' polynomial; what float32 cannot hold is cut off at e^-87 and e^88. */
static inline lanes exponential(lanes x) {
    x = choose(x < -87.0f, all(-87.0f), x);
    x = choose(x > 88.0f, all(88.0f), x);
    lanes n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* rounds, as there are no digits behind 1.5 * 2^23 */
    lanes r = x - n * 0.693359375f + n * 2.12194440e-4f, p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (lanes)((__builtin_convertvector(n, integers) + 127) << 23);
}

/* Of a row of n numbers, a multiple of LANES, of which the first `seen` count. */
static inline float largest(const float *row, int n, int seen) {
    lanes most = all(-INFINITY);
    for (int i = 0; i < n; i += LANES) {
        lanes x = choose(below(i, seen), load(row + i), all(-INFINITY));
        most = choose(x > most, x, most);
    }
    return largest_of(most);
}

/* row <- e^(row - shift), 0 behind `seen`; returns the sum. */
static inline float exponentials(float *row, int n, int seen, float shift) {
    lanes sum = all(0);
    for (int i = 0; i < n; i += LANES) {
        lanes x = choose(below(i, seen), exponential(load(row + i) - shift), all(0));
        store(row + i, x);
        sum += x;
    }
    return sum_of(sum);
}

static inline void scale_by(float *row, size n, float by) {
    for (size i = 0; i < n; i++) row[i] *= by;
}
