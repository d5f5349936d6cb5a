#include "tiles.h"

/* Attention goes over blocks of keys, and of the queries that see them, whose scores stay in the cache (Dao 2023,
   https://arxiv.org/abs/2307.08691). Of a tile of scores, only those are computed that one of its queries sees. */
enum { QUERIES = 64, KEYS = 512, ROW = KEYS + LANES }; /* rows a power of two apart would share cache lines */

/* Of a block of keys, those that a query may see; `last` of a tile of queries. */
static inline int visible(size query, size first, size keys) {
    return query < first ? 0 : least(query + 1 - first, keys);
}

/* output [d, ROW] <- states [n, d], whose rows are `row` apart, 0 behind them; d a multiple of LANES */
static inline void transpose(const float *states, size row, int n, int d, float *output) {
    for (int j = 0; j < n; j += LANES)
        for (int i = 0; i < d; i += LANES) {
            lanes rows[LANES];
            for (int r = 0; r < LANES; r++) rows[r] = j + r < n ? load(states + (j + r) * row + i) : all(0);
            transpose_tile(rows);
            for (int r = 0; r < LANES; r++) store(output + (i + r) * ROW + j, rows[r]);
        }
}

static inline void scaled(const float *states, size row, size n, size d, float scale, float *output) {
    for (size i = 0; i < n; i++)
        for (size j = 0; j < d; j++) output[i * d + j] = scale * states[i * row + j];
}

/* query, output [tokens, heads, d]; key, value [tokens, shared, d]; log_sums [heads, tokens] <- of each query, the
   logarithm of its scores' sum of exponentials; chunks [count, 3]: where their sample starts, first query, end, at
   most KEYS of them */
void attention(const float *query, const float *key, const float *value, float *output, float *log_sums,
               const int64_t *chunks, size count, size tokens, size heads, size shared, size d, float scale,
               int threads) {
    const size query_row = heads * d, key_row = shared * d, per = heads / shared;
#pragma omp parallel num_threads(threads)
    {
        float *keys = malloc(d * ROW * sizeof(float)), *queries = malloc(QUERIES * d * sizeof(float));
        float *scores = malloc(QUERIES * ROW * sizeof(float)), *sums = malloc(2 * per * KEYS * sizeof(float));
#pragma omp for collapse(2) schedule(dynamic)
        for (size chunk = 0; chunk < count; chunk++)
            for (size part = 0; part < shared; part++) {
                size from = chunks[3 * chunk], first = chunks[3 * chunk + 1], end = chunks[3 * chunk + 2];
                for (size at = from; at < end; at += KEYS) {
                    int m = least(KEYS, end - at);
                    const float *v = value + at * key_row + part * d;
                    transpose(key + at * key_row + part * d, key_row, m, d, keys);
                    for (size h = 0; h < per; h++)
                        for (size block = first; block < end; block += QUERIES) {
                            int n = least(QUERIES, end - block);
                            size place = block * query_row + (part * per + h) * d;
                            float *sum = sums + h * KEYS + block - first, *most = sum + per * KEYS;
                            scaled(query + place, query_row, n, d, scale, queries);
                            for (int i = 0; i < n; i += ROWS) {
                                int rows = least(ROWS, n - i), last = visible(block + i + rows - 1, at, m);
                                if (!last) continue;
                                float *row = scores + i * ROW, *out = output + place + i * query_row;
                                multiply(queries + i * d, d, 1, keys, ROW, row, ROW, rows, whole(last), d, 0);
                                for (int r = i; r < i + rows; r++, row += ROW) {
                                    int seen = visible(block + r, at, m);
                                    if (at == from) {
                                        most[r] = largest(row, whole(last), seen);
                                        sum[r] = exponentials(row, whole(last), seen, most[r]);
                                    } else {
                                        float before = most[r], now = largest(row, whole(last), seen);
                                        most[r] = before > now ? before : now;
                                        float by = expf(before - most[r]);
                                        sum[r] = sum[r] * by + exponentials(row, whole(last), seen, most[r]);
                                        scale_by(output + place + r * query_row, d, by);
                                    }
                                }
                                multiply(scores + i * ROW, ROW, 1, v, key_row, out, query_row, rows, d, last,
                                         at != from);
                            }
                        }
                }
                for (size h = 0; h < per; h++)
                    for (size t = first; t < end; t++) {
                        float sum = sums[h * KEYS + t - first], most = sums[(per + h) * KEYS + t - first];
                        scale_by(output + t * query_row + (part * per + h) * d, d, 1.0f / sum);
                        log_sums[(part * per + h) * tokens + t] = most + logf(sum);
                    }
            }
        free(keys);
        free(queries);
        free(scores);
        free(sums);
    }
}

/* Gradients. The heads that share a key are summed where a thread takes all of them, `parts` = shared; else parts =
   heads. at_key, at_value [tokens, parts, d]; starts [samples + 1] */
void attention_backward(const float *gradient, const float *query, const float *key, const float *value,
                        const float *output, const float *log_sums, float *at_query, float *at_key, float *at_value,
                        const int64_t *starts, size samples, size parts, size tokens, size heads, size shared, size d,
                        float scale, int threads) {
    const size query_row = heads * d, key_row = shared * d, part_row = parts * d, per = heads / parts;
#pragma omp parallel num_threads(threads)
    {
        float *keys = malloc(d * ROW * sizeof(float)), *values = malloc(d * ROW * sizeof(float));
        float *queries = malloc(QUERIES * d * sizeof(float));
        float *shares = malloc(QUERIES * ROW * sizeof(float)), *at_scores = malloc(QUERIES * ROW * sizeof(float));
#pragma omp for collapse(2) schedule(dynamic)
        for (size sample = 0; sample < samples; sample++)
            for (size part = 0; part < parts; part++) {
                size from = starts[sample], to = starts[sample + 1], of = part * per / (heads / shared) * d;
                for (size t = from; t < to; t++) {
                    memset(at_key + t * part_row + part * d, 0, d * sizeof(float));
                    memset(at_value + t * part_row + part * d, 0, d * sizeof(float));
                }
                for (size at = from; at < to; at += KEYS) {
                    int m = least(KEYS, to - at);
                    const float *k = key + at * key_row + of;
                    transpose(k, key_row, m, d, keys);
                    transpose(value + at * key_row + of, key_row, m, d, values);
                    for (size h = part * per; h < (part + 1) * per; h++)
                        for (size block = at; block < to; block += QUERIES) {
                            int n = least(QUERIES, to - block), most = visible(block + n - 1, at, m);
                            size place = block * query_row + h * d;
                            const float *g = gradient + place;
                            scaled(query + place, query_row, n, d, scale, queries);
                            for (int i = 0; i < n; i += ROWS) {
                                int rows = least(ROWS, n - i), last = visible(block + i + rows - 1, at, m);
                                float *share = shares + i * ROW, *score = at_scores + i * ROW;
                                multiply(queries + i * d, d, 1, keys, ROW, share, ROW, rows, whole(last), d, 0);
                                multiply(g + i * query_row, query_row, 1, values, ROW, score, ROW, rows, whole(last),
                                         d, 0);
                                for (int r = i; r < i + rows; r++, share += ROW, score += ROW) {
                                    const float *from_output = g + r * query_row, *o = output + place + r * query_row;
                                    float log_sum = log_sums[h * tokens + block + r], along = 0;
                                    int seen = visible(block + r, at, m);
#pragma omp simd reduction(+ : along)
                                    for (size j = 0; j < d; j++) along += from_output[j] * o[j];
                                    exponentials(share, whole(last), seen, log_sum);
                                    for (int j = 0; j < whole(last); j++) score[j] = share[j] * (score[j] - along);
                                }
                                multiply(at_scores + i * ROW, ROW, 1, k, key_row, at_query + place + i * query_row,
                                         query_row, rows, d, last, at != from);
                            }
                            for (int j = 0; j < most; j += ROWS) {
                                int rows = least(ROWS, most - j), i = at + j < block ? 0 : at + j - block;
                                size to_keys = (at + j) * part_row + part * d;
                                multiply(shares + i * ROW + j, 1, ROW, g + i * query_row, query_row,
                                         at_value + to_keys, part_row, rows, d, n - i, 1);
                                multiply(at_scores + i * ROW + j, 1, ROW, queries + i * d, d, at_key + to_keys,
                                         part_row, rows, d, n - i, 1);
                            }
                        }
                }
                for (size t = from; t < to; t++)
                    scale_by(at_query + t * query_row + part * per * d, per * d, scale);
            }
        free(keys);
        free(values);
        free(queries);
        free(shares);
        free(at_scores);
    }
}
