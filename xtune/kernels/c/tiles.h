#pragma once

#include "vectors.h"

/* Products of small matrices. A tile of the result, ROWS x 2 LANES, stays in registers. */
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));

static inline __attribute__((always_inline)) void tile(const float *a, size row, size column, const float *b,
                                                       size b_row, float *c, size c_row, size k, int add,
                                                       const int rows, const int vectors) {
    lanes sums[ROWS][2];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) sums[r][v] = add ? load(c + r * c_row + v * LANES) : all(0);
    for (size i = 0; i < k; i++) {
        const float *x = a + i * column;
        lanes y[2];
        for (int v = 0; v < vectors; v++) y[v] = load(b + i * b_row + v * LANES);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++) sums[r][v] += x[r * row] * y[v];
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++) store(c + r * c_row + v * LANES, sums[r][v]);
}

/* c [m, n] <- a b, or c + a b; n is a multiple of LANES. Element (r, i) of a [m, k] is a[r row + i column]; the rows
   of b [k, n] are b_row apart. */
static void multiply(const float *a, size row, size column, const float *b, size b_row, float *c, size c_row, int m,
                     int n, int k, int add) {
    for (int at = 0; at < n; at += 2 * LANES) {
        for (int r = 0, rows; r < m; r += rows) {
            const float *x = a + r * row, *y = b + at;
            float *z = c + r * c_row + at;
#define TILE(vectors) \
    if (rows == ROWS) \
        tile(x, row, column, y, b_row, z, c_row, k, add, ROWS, vectors); \
    else if (rows == 4) \
        tile(x, row, column, y, b_row, z, c_row, k, add, 4, vectors); \
    else if (rows == 2) \
        tile(x, row, column, y, b_row, z, c_row, k, add, 2, vectors); \
    else \
        tile(x, row, column, y, b_row, z, c_row, k, add, 1, vectors)
            rows = m - r >= ROWS ? ROWS : m - r >= 4 ? 4 : m - r >= 2 ? 2 : 1;
            if (n - at >= 2 * LANES) {
                TILE(2);
            } else {
                TILE(1);
            }
#undef TILE
        }
    }
}

/* rows <- their transpose, by swapping blocks of ever twice the size */
static inline void transpose_tile(lanes *rows) {
    integers place;
    for (int i = 0; i < LANES; i++) place[i] = i;
#pragma GCC unroll 4
    for (int size = 1; size < LANES; size *= 2) {
        integers odd = (place & size) != 0, low = place + ((LANES - size) & odd), high = low + size;
#pragma GCC unroll 16
        for (int r = 0; r < LANES; r++)
            if (!(r & size)) {
                lanes a = rows[r], b = rows[r + size];
                rows[r] = __builtin_shuffle(a, b, low);
                rows[r + size] = __builtin_shuffle(a, b, high);
            }
    }
}
