/* Norms, SwiGLU, rotary embeddings and softmax: float32, rows one after another, each of them written by one of
   `threads`, so that a result does not depend on how many there are. */
#include "vectors.h"

/* Norms of states [rows, n]: inverse [rows] <- 1 / sqrt(mean(x^2) + epsilon), and with it output <- weight x inverse;
   weight [n] */
void rms_norm(const float *states, const float *weight, float epsilon, float *output, float *inverse, size rows,
              size n, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size r = 0; r < rows; r++) {
        const float *x = states + r * n;
        float *y = output + r * n, sum = 0;
#pragma omp simd reduction(+ : sum)
        for (size i = 0; i < n; i++) sum += x[i] * x[i];
        float by = inverse[r] = 1.0f / sqrtf(sum / n + epsilon);
        for (size i = 0; i < n; i++) y[i] = weight[i] * (x[i] * by);
    }
}

void scale_rows(const float *states, const float *weight, const float *inverse, float *output, size rows, size n,
                int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size r = 0; r < rows; r++)
        for (size i = 0; i < n; i++) output[r * n + i] = weight[i] * (states[r * n + i] * inverse[r]);
}

void rms_norm_backward(const float *gradient, const float *states, const float *weight, const float *inverse,
                       float *at_states, size rows, size n, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size r = 0; r < rows; r++) {
        const float *g = gradient + r * n, *x = states + r * n;
        float *at = at_states + r * n, by = inverse[r], sum = 0;
#pragma omp simd reduction(+ : sum)
        for (size i = 0; i < n; i++) sum += g[i] * weight[i] * x[i];
        float along = sum * by * by / n;
        for (size i = 0; i < n; i++) at[i] = by * (g[i] * weight[i] - x[i] * along);
    }
}

static inline lanes sigmoid(lanes x) { return 1.0f / (1.0f + exponential(-x)); }

void swiglu(const float *gate, const float *up, float *output, size n, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size i = 0; i < n; i += LANES) {
        int m = least(LANES, n - i);
        lanes x = m < LANES ? load_part(gate + i, m) : load(gate + i);
        lanes u = m < LANES ? load_part(up + i, m) : load(up + i), y = x * sigmoid(x) * u;
        if (m < LANES)
            store_part(output + i, y, m);
        else
            store(output + i, y);
    }
}

void swiglu_backward(const float *gradient, const float *gate, const float *up, float *output, float *at_gate,
                     float *at_up, size n, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size i = 0; i < n; i += LANES) {
        int m = least(LANES, n - i);
        lanes g = m < LANES ? load_part(gradient + i, m) : load(gradient + i);
        lanes x = m < LANES ? load_part(gate + i, m) : load(gate + i);
        lanes u = m < LANES ? load_part(up + i, m) : load(up + i), share = sigmoid(x), active = x * share;
        lanes y = active * u, to_gate = g * u * (share + active * (1.0f - share)), to_up = g * active;
        if (m < LANES) {
            store_part(output + i, y, m);
            store_part(at_gate + i, to_gate, m);
            store_part(at_up + i, to_up, m);
        } else {
            store(output + i, y);
            store(at_gate + i, to_gate);
            store(at_up + i, to_up);
        }
    }
}

/* states, output [tokens, heads, 2 half]; cos, sin [tokens, 2 half], of which the first half is read; `way` is 1, or
   -1 to turn back */
void rotary(const float *states, float *output, const float *cos, const float *sin, float way, size tokens,
            size heads, size half, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size t = 0; t < tokens; t++) {
        const float *c = cos + t * 2 * half, *s = sin + t * 2 * half;
        for (size h = 0; h < heads; h++) {
            const float *x = states + (t * heads + h) * 2 * half;
            float *y = output + (t * heads + h) * 2 * half;
            for (size i = 0; i < half; i++) {
                y[i] = x[i] * c[i] - way * x[i + half] * s[i];
                y[i + half] = x[i + half] * c[i] + way * x[i] * s[i];
            }
        }
    }
}

/* logits [rows, n] <- softmax - one_hot(target); losses [rows] <- -log softmax[target] */
void softmax_gradient(float *logits, const int64_t *targets, float *losses, size rows, size n, int threads) {
    const int m = n / LANES * LANES, rest = n - m;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size r = 0; r < rows; r++) {
        float *row = logits + r * n, target = row[targets[r]], most = largest(row, m, m), end[LANES];
        for (int i = m; i < n; i++) most = row[i] > most ? row[i] : most;
        memcpy(end, row + m, rest * sizeof(float));
        float sum = exponentials(row, m, m, most) + exponentials(end, whole(rest), rest, most);
        memcpy(row + m, end, rest * sizeof(float));
        scale_by(row, n, 1.0f / sum);
        row[targets[r]] -= 1.0f;
        losses[r] = most + logf(sum) - target;
    }
}
