/* Runs all kernels of this processor on arrays of exactly the size that they may touch: for sanitizers, and for other
 * processors under an emulator. Prints what is wrong; exits with 1 then. */
#include "../../pretune/native/kernels.c"

#include <stdio.h>

static int wrong;
static uint32_t state = 1;

static float draw(void) {
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 8388608.0f - 1.0f;
}

static float *floats(int64_t count, float scale) {
    float *out = malloc((size_t)count * 4);
    for (int64_t i = 0; i < count; i++) out[i] = scale * draw();
    return out;
}

/* Weights as rows of the format: any bytes are good int8, q8_0 and q4_0 but for the scales. */
static void *rows_of(int format, int64_t out, int64_t in) {
    int64_t own = format == Q8_0 ? 34 : 18, bytes = format == FP32 ? 4 * in : format == BF16 ? 2 * in : format == INT8 ? in : in / 32 * own;
    uint8_t *rows = malloc((size_t)(out * bytes));
    for (int64_t i = 0; i < out * bytes; i++) rows[i] = (uint8_t)(draw() * 127);
    for (int64_t i = 0; format == FP32 && i < out * in; i++) ((float *)rows)[i] = draw();
    for (int64_t i = 0; format == BF16 && i < out * in; i++) ((uint16_t *)rows)[i] = (uint16_t)(0x3f00 + (i * 37 % 256) + (i % 2 ? 0x8000 : 0));
    for (int64_t i = 0; format >= Q8_0 && i < out * (in / 32); i++) {
        uint16_t half = (uint16_t)(0x1000 + i * 97 % 0x1000);
        memcpy(rows + i * own, &half, 2);
    }
    return rows;
}

static void check_products(int variant, int format, int64_t out, int64_t in, int flags) {
    void *rows = rows_of(format, out, in);
    void *panels = malloc((size_t)pretune_packed_bytes(format, out, in));
    pretune_pack(format, rows, out, in, panels);
    int64_t wide = padded(out, PANEL);
    float *scale = floats(wide, 0.01f), *bias = floats(wide, 1), *dense = malloc((size_t)(out * in) * 4);
    Matrix matrix = {panels, scale, out, in, format, 0};
    pretune_dense(&matrix, dense);
    int count = 27;
    float *x = floats(count * in, 1), *y = malloc((size_t)(count * out) * 4), *alone = malloc((size_t)out * 4);
    Product product = {&matrix, x, bias, y, in, out, count, NONE, flags, 0};
    wrong |= pretune_product(variant, 2, &product);
    for (int r = 0; r < count; r++) {
        for (int64_t n = 0; n < out; n++) {
            double sum = bias[n], size = fabs((double)bias[n]);
            for (int64_t k = 0; k < in; k++) {
                double value = (double)dense[n * in + k] * x[r * in + k];
                sum += value, size += fabs(value);
            }
            double bound = flags && format != FP32 ? (flags & SEVEN_BITS ? 16e-3 : 8e-3) * size + 1e-6 : 1e-6 * size;
            if (!(fabs(sum - y[r * out + n]) <= bound)) {
                printf("%s format %d, %dx%d, flags %d: %g instead of %g\n", variants[variant].name, format, (int)out, (int)in, flags, y[r * out + n], sum);
                wrong = 1;
                return;
            }
        }
        Product one = {&matrix, x + r * in, bias, alone, in, out, 1, NONE, flags, 0};
        wrong |= pretune_product(variant, 1, &one);
        if (memcmp(alone, y + r * out, (size_t)out * 4)) printf("%s format %d: another row alone\n", variants[variant].name, format), wrong = 1;
    }
    free(rows), free(panels), free(scale), free(bias), free(dense), free(x), free(y), free(alone);
}

/* A layer over a cache of pages: 37 rows of a text at once, then one after another, must give the same bits. */
static void check_step(int variant) {
    enum { WIDTH = 60, HEADS = 4, KEY_HEADS = 2, HEAD = 15, COUNT = 37, VOCABULARY = 45, PAGES = 3, HALF = 7 };
    void *panels[2];
    Matrix matrix[2] = {{NULL, NULL, VOCABULARY, WIDTH, BF16, 0}, {NULL, NULL, 120, WIDTH, FP32, 0}};
    for (int n = 0; n < 2; n++) {
        void *rows = rows_of(matrix[n].format, matrix[n].out, WIDTH);
        panels[n] = malloc((size_t)pretune_packed_bytes(matrix[n].format, matrix[n].out, WIDTH));
        pretune_pack(matrix[n].format, rows, matrix[n].out, WIDTH, panels[n]);
        matrix[n].data = panels[n];
        free(rows);
    }
    float *gain = floats(WIDTH, 1), *bias = floats(HEADS * 5, 1), *frequencies = floats(HALF, 1), *kept = NULL;
    Op ops[] = {
        {.code = EMBED, .matrix = &matrix[0], .n = {WIDTH}, .f = {0.5f}},
        {.code = LAYER_NORM, .buffer = {1, 0}, .n = {WIDTH}, .f = {1e-5f}, .p = {gain, gain}},
        {.code = MULTIPLY, .buffer = {2, 1}, .matrix = &matrix[1], .flags = ROUNDED},
        {.code = RMS_NORM, .buffer = {2, 2}, .n = {WIDTH, HEAD}, .f = {1e-6f}, .p = {gain}},
        {.code = ROTATE, .buffer = {2}, .n = {WIDTH, HEAD, 0, 0}},
        {.code = ATTEND, .buffer = {1, 2, 2, 2}, .start = {0, 0, 60, 90}, .n = {HEADS, 20, 5}, .f = {0.3f}, .p = {bias}},
        {.code = GATE, .buffer = {0, 1, 0}, .n = {WIDTH}, .activation = SILU},
        {.code = SCORES, .buffer = {0, 0}, .matrix = &matrix[0], .flags = ROUNDED},
    };
    for (int threads = 1; threads <= 2; threads++)
        for (int at_once = COUNT; at_once >= 1; at_once -= COUNT - 1) {
            int64_t addresses[PAGES], tokens[COUNT], ids[COUNT * 2];
            int32_t slots[COUNT] = {0}, positions[COUNT], wanted[COUNT], widths[] = {WIDTH, WIDTH, 120};
            for (int n = 0; n < PAGES; n++) addresses[n] = (int64_t)(intptr_t)calloc(2 * KEY_HEADS * PAGE * HEAD, 4);
            float *buffers[3], *scores = malloc(COUNT * VOCABULARY * 4), *hidden = malloc(COUNT * WIDTH * 4), values[COUNT * 2], sums[COUNT];
            for (int n = 0; n < 3; n++) buffers[n] = malloc((size_t)(at_once * widths[n]) * 4);
            Rotation rotation = {frequencies, HALF, malloc(at_once * HALF * 4), malloc(at_once * HALF * 4), 1.0f, 0};
            for (int n = 0; n < COUNT; n++) tokens[n] = n * 7 % VOCABULARY, positions[n] = n, wanted[n] = n % at_once;
            for (int first = 0; first < COUNT; first += at_once) {
                Step step = {ops, buffers, widths, tokens + first, slots, positions + first, wanted, &rotation,
                             {addresses, PAGES, NULL, 1, KEY_HEADS, HEAD, 0}, {0}, scores + first * VOCABULARY, values + 2 * first,
                             sums + first, hidden + first * WIDTH, ids + 2 * first, 8, at_once, at_once, 1, 2, 1};
                wrong |= pretune_step(variant, threads, &step);
            }
            for (int n = 0; n < COUNT * VOCABULARY; n++)
                if (!isfinite(scores[n])) printf("%s: a score is %g\n", variants[variant].name, scores[n]), wrong = 1, n = COUNT * VOCABULARY;
            if (kept && memcmp(kept, scores, COUNT * VOCABULARY * 4)) printf("%s: another text\n", variants[variant].name), wrong = 1;
            free(kept);
            kept = scores;
            for (int n = 0; n < PAGES; n++) free((void *)(intptr_t)addresses[n]);
            for (int n = 0; n < 3; n++) free(buffers[n]);
            free(rotation.cosine), free(rotation.sine), free(hidden);
        }
    free(kept), free(gain), free(bias), free(frequencies), free(panels[0]), free(panels[1]);
}

int main(void) {
    for (int variant = 0; variant < VARIANTS; variant++) {
        if (!pretune_supported(variant)) continue;
        for (int format = FP32; format <= Q4_0; format++)
            for (int n = 0; n < 3; n++) {
                int flags = n == 0 ? 0 : n == 1 ? ROUNDED : ROUNDED | SEVEN_BITS;
                check_products(variant, format, 70, 96, flags);
                if (format <= INT8) check_products(variant, format, 33, 45, flags);
            }
        check_step(variant);
        printf("%s\n", variants[variant].name);
    }
    return wrong;
}
