/* Thin products: of a matrix with one whose rows are a few vectors. */
#include "vectors.h"

/* Of ROWS rows or fewer, and LANES columns of the others. */
static inline void thin_block(const float *g, const float *b, const float *low, float *at_low, float *at_b, size n,
                              size rank, size row, const int rows) {
    lanes sums[ROWS] = {0}, from[ROWS];
    for (int r = 0; r < rows; r++) from[r] = load(low + r * row);
    for (size j = 0; j < n; j++) {
        lanes factor = load(b + j * rank), sum = load(at_b + j * rank);
        for (int r = 0; r < rows; r++) {
            float x = g[r * n + j];
            sums[r] += x * factor;
            sum += x * from[r];
        }
        store(at_b + j * rank, sum);
    }
    for (int r = 0; r < rows; r++) store(at_low + r * row, sums[r]);
}

/* Of y = scale * low B^T, in one pass over the gradient at y: at_low <- scale * gradient B, and at_b <- scale *
   gradient^T low. gradient [rows, n]; b, at_b [n, rank]; low, at_low [rows, rank], their rows `row` apart; rank is a
   multiple of LANES. */
void thin_backward(const float *gradient, const float *b, const float *low, float *at_low, float *at_b, float *room,
                   size rows, size n, size rank, size row, float scale, int threads) {
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (size i = 0; i < threads * n * rank; i++) room[i] = 0;
#pragma omp for schedule(static)
        for (size part = 0; part < threads; part++) {
            size end = rows * (part + 1) / threads, r = rows * part / threads;
            for (; r < end; r += ROWS)
                for (size lane = 0; lane < rank; lane += LANES) {
                    const float *g = gradient + r * n, *from = low + r * row + lane;
                    float *to = at_low + r * row + lane, *sum = room + part * n * rank + lane;
                    if (r + ROWS <= end)
                        thin_block(g, b + lane, from, to, sum, n, rank, row, ROWS);
                    else
                        thin_block(g, b + lane, from, to, sum, n, rank, row, end - r);
                    for (size i = 0; i < least(ROWS, end - r); i++) scale_by(to + i * row, LANES, scale);
                }
        }
#pragma omp for schedule(static)
        for (size i = 0; i < n * rank; i++) {
            float sum = 0;
            for (int part = 0; part < threads; part++) sum += room[part * n * rank + i];
            at_b[i] = scale * sum;
        }
    }
}
