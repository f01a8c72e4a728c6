/* A decoder's step in one call, and products with rounded weights: see program.py for what each operation computes.
 *
 * The file includes itself once for each instruction set (the part under VARIANT), so that each kernel is written once,
 * in vectors of the compiler; a few primitives (DOT4, DOTBF16, FMA) are the instruction set's own. Which one runs is
 * chosen when the library is loaded.
 *
 * Weights lie in panels of 32 outputs: a panel holds, for each step of k, the values of its 32 outputs side by side. One
 * lane belongs to one output, so that a sum has one accumulator and one order, whatever the number of rows or threads,
 * and one token reads one linear stream. */
#ifndef VARIANT

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if !defined(_WIN32)
#define POOL 1
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#endif
#if defined(__x86_64__) && defined(__GNUC__)
#define X86 1
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__GNUC__)
#define ARM 1
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif
#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline, unused))
#define UNUSED __attribute__((unused))
#define EXPORT __attribute__((visibility("default")))
#else
#error "needs a compiler with vectors: gcc or clang"
#endif

#define ABI 2
#define PANEL 32 /* outputs of a panel */
#define GROUP 32 /* values with one scale */
#define PAGE 16  /* tokens of a page of the cache */
#define CHUNK 256 /* rows whose activations are held in another form at once */
#define MANY 16   /* rows for which a panel is brought into another form first */

enum { FP32, BF16, INT8, Q8_0, Q4_0 };
enum { EMBED, ADD_POSITION, ADD_VECTOR, LAYER_NORM, RMS_NORM, MULTIPLY, GATE, ACTIVATE, ADD, COPY, ROTATE, ATTEND,
       CROSS_ATTEND, SCORES };
enum { NONE, RELU, GELU, GELU_TANH, SILU, TANH, QUICK_GELU, RELU_SQUARED, SIGMOID };
enum { ROUNDED = 1, ACCUMULATE = 2, INTERLEAVED = 4, SEVEN_BITS = 8 /* rounded ones are -63 to 63, not -127 to 127 */ };

typedef struct {
    const uint8_t *data;  /* panels */
    const float *scale;   /* of each output, padded to panels: int8 alone */
    int64_t out, in;
    int32_t format, pad;
} Matrix;

typedef struct {
    int32_t code, activation, flags, layer;
    int32_t buffer[4], start[4]; /* target, source or query or gate, key or value of a gate, value */
    int64_t n[4];
    float f[2];
    const Matrix *matrix;
    const float *p[2];
} Op;

typedef struct {
    const int64_t *pages; /* (slots, stride) addresses */
    int64_t stride;
    const int32_t *lengths; /* of each slot: of the second cache alone */
    int32_t layers, key_heads, head_width, pad;
} Cache;

typedef struct {
    const float *frequencies;
    int64_t half;
    float *cosine, *sine; /* (rows, half) */
    float amplitude;
    int32_t pad;
} Rotation;

typedef struct {
    const Op *ops;
    float *const *buffers;
    const int32_t *widths;
    const int64_t *tokens;
    const int32_t *slots, *positions, *wanted;
    const Rotation *rotations;
    Cache cache, cross;
    float *scores, *values, *log_sum, *hidden;
    int64_t *ids;
    int32_t op_count, rows, wanted_count, rotation_count, top, wants_log_sum;
} Step;

/* ---- the team of threads: the caller and its helpers, which spin for some microseconds and then sleep */

typedef struct Team Team;
typedef struct {
    Team *team;
    int index, count;
    char *scratch;
    size_t scratch_bytes;
} Worker;

struct Team {
    int count;
    int failed; /* memory ran out */
    int32_t arrived, phase, sleepers;
    char *shared;
    size_t shared_bytes;
#ifdef POOL
    pthread_mutex_t lock;
    pthread_cond_t changed;
#endif
};

static void *grow(char **memory, size_t *held, size_t wanted) {
    if (*held < wanted) {
        free(*memory);
        size_t bytes = (wanted + 4095) & ~(size_t)4095;
        void *fresh = NULL;
#ifdef POOL
        if (posix_memalign(&fresh, 64, bytes)) fresh = NULL;
#else
        fresh = malloc(bytes);
#endif
        *memory = fresh;
        *held = fresh ? bytes : 0;
    }
    return *memory;
}

static inline void relax(void) {
#if defined(X86)
    _mm_pause();
#elif defined(ARM)
    __asm__ volatile("yield");
#endif
}

#define SPINS 400

#ifdef POOL
static void wait_for_change(Team *team, int32_t *word, int32_t old) {
    for (int n = 0; n < SPINS; n++) {
        if (__atomic_load_n(word, __ATOMIC_ACQUIRE) != old) return;
        relax();
    }
    pthread_mutex_lock(&team->lock);
    __atomic_add_fetch(&team->sleepers, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(word, __ATOMIC_SEQ_CST) == old) pthread_cond_wait(&team->changed, &team->lock);
    __atomic_sub_fetch(&team->sleepers, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&team->lock);
}

static void change(Team *team, int32_t *word, int32_t fresh) {
    __atomic_store_n(word, fresh, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&team->sleepers, __ATOMIC_SEQ_CST)) {
        pthread_mutex_lock(&team->lock);
        pthread_cond_broadcast(&team->changed);
        pthread_mutex_unlock(&team->lock);
    }
}
#endif

/* All workers have done what stands before it. */
static void barrier(Worker *worker) {
#ifdef POOL
    Team *team = worker->team;
    if (team->count == 1) return;
    int32_t phase = __atomic_load_n(&team->phase, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&team->arrived, 1, __ATOMIC_ACQ_REL) == team->count) {
        __atomic_store_n(&team->arrived, 0, __ATOMIC_RELAXED);
        change(team, &team->phase, (int32_t)((uint32_t)phase + 1));
    } else {
        wait_for_change(team, &team->phase, phase);
    }
#else
    (void)worker;
#endif
}

typedef void (*Job)(Worker *, void *);

#ifdef POOL
#define MAX_THREADS 256
static struct {
    pthread_mutex_t busy;
    Team team;
    int32_t started, generation, left; /* helpers; calls so far * MAX_THREADS + helpers of this one; those still at work */
    pid_t process;
    Job job;
    void *argument;
    Worker workers[MAX_THREADS];
} pool = {.busy = PTHREAD_MUTEX_INITIALIZER};

typedef struct { int index; int32_t generation; } Start;

static void *help(void *argument) {
    Start start = *(Start *)argument;
    free(argument);
    for (int32_t seen = start.generation;;) {
        wait_for_change(&pool.team, &pool.generation, seen);
        seen = __atomic_load_n(&pool.generation, __ATOMIC_ACQUIRE);
        if (start.index > (int32_t)((uint32_t)seen % MAX_THREADS)) continue; /* one word says both: no call is done twice */
        pool.job(&pool.workers[start.index], pool.argument);
        __atomic_sub_fetch(&pool.left, 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

static int start_helpers(int count) {
    if (pool.process != getpid()) { /* a fork has no helpers */
        Team fresh = {0};
        pool.process = getpid();
        pool.started = pool.left = 0;
        pool.team = fresh;
        pthread_mutex_init(&pool.team.lock, NULL);
        pthread_cond_init(&pool.team.changed, NULL);
        memset(pool.workers, 0, sizeof pool.workers);
        for (int n = 0; n < MAX_THREADS; n++) pool.workers[n].index = n;
    }
    while (pool.started < count - 1) {
        Start *start = malloc(sizeof *start);
        if (!start) break;
        start->index = pool.started + 1;
        start->generation = pool.generation;
        pthread_t thread;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        int failed = pthread_create(&thread, &attributes, help, start);
        pthread_attr_destroy(&attributes);
        if (failed) {
            free(start);
            break;
        }
        pool.started++;
    }
    return pool.started + 1 < count ? pool.started + 1 : count;
}
#endif

/* Runs a job by so many threads; alone where another call has the threads. Returns 0, or 1 where memory ran out. */
static int run(Job job, void *argument, int threads) {
#ifdef POOL
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > 1 && pthread_mutex_trylock(&pool.busy) == 0) {
        int count = start_helpers(threads);
        Team *team = &pool.team;
        team->failed = 0;
        pool.job = job;
        pool.argument = argument;
        for (int n = 0; n < count; n++) {
            pool.workers[n].team = team;
            pool.workers[n].count = count;
        }
        __atomic_store_n(&pool.left, count - 1, __ATOMIC_SEQ_CST);
        team->count = count;
        uint32_t calls = (uint32_t)pool.generation / MAX_THREADS + 1;
        if (count > 1) change(team, &pool.generation, (int32_t)(calls * MAX_THREADS + (uint32_t)(count - 1)));
        job(&pool.workers[0], argument);
        for (int spins = 0; __atomic_load_n(&pool.left, __ATOMIC_ACQUIRE); spins++)
            if (spins < SPINS) relax(); else usleep(20);
        int failed = team->failed;
        pthread_mutex_unlock(&pool.busy);
        return failed;
    }
#endif
    Team team = {.count = 1};
    Worker worker = {.team = &team, .index = 0, .count = 1};
    job(&worker, argument);
    free(worker.scratch);
    free(team.shared);
    return team.failed;
}

/* ---- weights: into panels, and one row out of them */

static inline float half_to_float(uint16_t h) {
    union { uint32_t i; float f; } u = {(uint32_t)(h & 0x7fff) << 13}, scale = {0x77800000u};
    u.f *= scale.f; /* 2^112 moves the exponent; right for numbers below the normal ones too */
    u.i |= (uint32_t)(h & 0x8000) << 16;
    return u.f;
}

static inline float bf16_to_float(uint16_t h) {
    union { uint32_t i; float f; } u = {(uint32_t)h << 16};
    return u.f;
}

static inline int64_t padded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

static int64_t panel_bytes(int format, int64_t in) {
    switch (format) {
    case FP32: return in * PANEL * 4;
    case BF16: return padded(in, 2) * PANEL * 2;
    case INT8: return padded(in, GROUP) * PANEL;
    case Q8_0: return in / GROUP * (PANEL * 2 + PANEL * GROUP);
    default: return in / GROUP * (PANEL * 2 + PANEL * GROUP / 2);
    }
}

EXPORT int64_t pretune_packed_bytes(int32_t format, int64_t out, int64_t in) {
    return padded(out, PANEL) / PANEL * panel_bytes(format, in);
}

/* From rows: fp32, bf16, int8 values, or llama.cpp's blocks; `to` holds pretune_packed_bytes. */
EXPORT void pretune_pack(int32_t format, const void *from, int64_t out, int64_t in, void *to) {
    uint8_t *panels = to;
    int64_t bytes = panel_bytes(format, in), blocks = in / GROUP;
    for (int64_t p = 0; p * PANEL < out; p++, panels += bytes) {
        memset(panels, format == INT8 || format == Q8_0 ? 128 : 0, bytes);
        for (int64_t lane = 0; lane < PANEL; lane++) {
            int64_t row = p * PANEL + lane;
            if (row >= out) {
                if (format == Q8_0)
                    for (int64_t b = 0; b < blocks; b++) memset(panels + b * (PANEL * 34) + lane * 2, 0, 2);
                continue;
            }
            if (format == FP32)
                for (int64_t k = 0; k < in; k++) ((float *)panels)[k * PANEL + lane] = ((const float *)from)[row * in + k];
            else if (format == BF16)
                for (int64_t k = 0; k < in; k++)
                    ((uint16_t *)panels)[k / 2 * PANEL * 2 + lane * 2 + k % 2] = ((const uint16_t *)from)[row * in + k];
            else if (format == INT8)
                for (int64_t k = 0; k < in; k++)
                    panels[k / 4 * PANEL * 4 + lane * 4 + k % 4] = ((const uint8_t *)from)[row * in + k] ^ 128;
            else {
                int64_t own = format == Q8_0 ? GROUP : GROUP / 2;
                for (int64_t b = 0; b < blocks; b++) {
                    const uint8_t *block = (const uint8_t *)from + (row * blocks + b) * (own + 2);
                    uint8_t *target = panels + b * PANEL * (own + 2);
                    memcpy(target + lane * 2, block, 2);
                    for (int64_t k = 0; k < own; k++)
                        target[PANEL * 2 + k / 4 * PANEL * 4 + lane * 4 + k % 4] =
                            format == Q8_0 ? block[2 + k] ^ 128 : block[2 + k];
                }
            }
        }
    }
}

/* One row, widened. */
static void dense_row(const Matrix *m, int64_t row, float factor, float *out) {
    const uint8_t *panel = m->data + row / PANEL * panel_bytes(m->format, m->in);
    int64_t lane = row % PANEL;
    switch (m->format) {
    case FP32:
        for (int64_t k = 0; k < m->in; k++) out[k] = factor * ((const float *)panel)[k * PANEL + lane];
        return;
    case BF16:
        for (int64_t k = 0; k < m->in; k++)
            out[k] = factor * bf16_to_float(((const uint16_t *)panel)[k / 2 * PANEL * 2 + lane * 2 + k % 2]);
        return;
    case INT8:
        for (int64_t k = 0; k < m->in; k++)
            out[k] = factor * (m->scale[row] * (float)(panel[k / 4 * PANEL * 4 + lane * 4 + k % 4] - 128));
        return;
    default: {
        int own = m->format == Q8_0 ? GROUP : GROUP / 2;
        for (int64_t b = 0; b < m->in / GROUP; b++, panel += PANEL * (own + 2)) {
            uint16_t bits;
            memcpy(&bits, panel + lane * 2, 2);
            float scale = half_to_float(bits);
            for (int k = 0; k < own; k++) {
                int byte = panel[PANEL * 2 + k / 4 * PANEL * 4 + lane * 4 + k % 4];
                if (m->format == Q8_0) {
                    out[b * GROUP + k] = factor * (scale * (float)(byte - 128));
                } else {
                    out[b * GROUP + k] = factor * (scale * (float)((byte & 15) - 8));
                    out[b * GROUP + k + 16] = factor * (scale * (float)((byte >> 4) - 8));
                }
            }
        }
    }
    }
}

EXPORT void pretune_dense(const Matrix *m, float *out) {
    for (int64_t row = 0; row < m->out; row++) dense_row(m, row, 1.0f, out + row * m->in);
}

/* Asks for pages of 2 MB, before the memory is touched: a page of 4 KB is left after 100 ns of reading. */
EXPORT void pretune_prefer_huge_pages(void *memory, int64_t bytes) {
#ifdef MADV_HUGEPAGE
    intptr_t page = 1 << 21, first = ((intptr_t)memory + page - 1) / page * page, last = ((intptr_t)memory + bytes) / page * page;
    if (first < last) madvise((void *)first, (size_t)(last - first), MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

typedef struct {
    const Matrix *matrix;
    const float *x, *bias; /* the bias is padded to panels */
    float *y;
    int64_t ldx, ldy;
    int32_t rows, activation, flags, pad;
} Product;

/* ---- one variant for each instruction set */

#define VARIANT scalar
#define NAME(name) name##_scalar
#define VBYTES 16
#include "kernels.c"
#undef VARIANT
#undef NAME
#undef VBYTES

#ifdef X86
#define VBYTES 32
#define HAS_FMA
#define AVX2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define VARIANT avx2
#define NAME(name) name##_avx2
#include "kernels.c"
#undef VARIANT
#undef NAME
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avxvnni")
#endif
#define VNNI
#define VARIANT avx2vnni
#define NAME(name) name##_avx2vnni
#include "kernels.c"
#undef VARIANT
#undef NAME
#undef VNNI
#undef AVX2
#undef VBYTES
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif
#define VBYTES 64
#define AVX512
#define VARIANT avx512
#define NAME(name) name##_avx512
#include "kernels.c"
#undef VARIANT
#undef NAME
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#endif
#define VNNI
#define VARIANT avx512vnni
#define NAME(name) name##_avx512vnni
#include "kernels.c"
#undef VARIANT
#undef NAME
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")
#endif
#define HAS_BF16
#define VARIANT avx512bf16
#define NAME(name) name##_avx512bf16
#include "kernels.c"
#undef VARIANT
#undef NAME
#undef HAS_BF16
#undef VNNI
#undef AVX512
#undef HAS_FMA
#undef VBYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

#ifdef ARM
#define HAS_FMA
#define VBYTES 16
#define NEON
#define VARIANT neon
#define NAME(name) name##_neon
#include "kernels.c"
#undef VARIANT
#undef NAME
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#define DOTPROD
#define VARIANT neondot
#define NAME(name) name##_neondot
#include "kernels.c"
#undef VARIANT
#undef NAME
#undef DOTPROD
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef NEON
#undef VBYTES
#undef HAS_FMA
#endif

static int always(void) { return 1; }
#ifdef X86
static int has_avx2(void) { __builtin_cpu_init(); return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static int has_avxvnni(void) {
    unsigned a, b, c, d; /* leaf 7, subleaf 1: no name for it in every compiler */
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(1));
    return has_avx2() && (a >> 4 & 1);
}
static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
static int has_vnni(void) { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
static int has_bf16(void) { return has_vnni() && __builtin_cpu_supports("avx512bf16"); }
#endif
#ifdef ARM
static int has_dotprod(void) {
#if defined(__APPLE__)
    return 1;
#elif defined(__linux__)
    return getauxval(AT_HWCAP) >> 20 & 1;
#else
    return 0;
#endif
}
#endif

static const struct {
    const char *name;
    int (*supported)(void);
    Job step, product;
} variants[] = { /* the best first */
#ifdef X86
    {"avx512bf16", has_bf16, step_avx512bf16, product_avx512bf16},
    {"avx512vnni", has_vnni, step_avx512vnni, product_avx512vnni},
    {"avx512", has_avx512, step_avx512, product_avx512},
    {"avx2vnni", has_avxvnni, step_avx2vnni, product_avx2vnni},
    {"avx2", has_avx2, step_avx2, product_avx2},
#endif
#ifdef ARM
    {"neondot", has_dotprod, step_neondot, product_neondot},
    {"neon", always, step_neon, product_neon},
#endif
    {"scalar", always, step_scalar, product_scalar},
};
#define VARIANTS ((int)(sizeof variants / sizeof *variants))

EXPORT int32_t pretune_abi(void) { return ABI; }
EXPORT int32_t pretune_struct_bytes(void) { return (int32_t)(sizeof(Op) + sizeof(Step) + sizeof(Product)); }
EXPORT const char *pretune_variant(int32_t n) { return n >= 0 && n < VARIANTS ? variants[n].name : NULL; }
EXPORT int32_t pretune_supported(int32_t n) { return variants[n].supported(); }

/* Both return 0, or 1 where memory ran out. */
EXPORT int32_t pretune_product(int32_t variant, int32_t threads, Product *product) {
    return run(variants[variant].product, product, threads);
}
EXPORT int32_t pretune_step(int32_t variant, int32_t threads, Step *step) {
    return run(variants[variant].step, step, threads);
}

#else /* ---- VARIANT: kernels of one instruction set */

#define vf NAME(vf)
#define vi NAME(vi)
#define vfu NAME(vfu)
#define viu NAME(viu)
typedef float vf __attribute__((vector_size(VBYTES)));
typedef int32_t vi __attribute__((vector_size(VBYTES)));
typedef float vfu __attribute__((vector_size(VBYTES), aligned(4), may_alias));
typedef int32_t viu __attribute__((vector_size(VBYTES), aligned(1), may_alias));

#define VL (VBYTES / 4)       /* lanes */
#define NV (PANEL / VL)       /* vectors of a panel */
#define NP (PAGE / VL)        /* vectors of a page's tokens */
#if defined(AVX512)
#define RF 12 /* rows of a tile with sums in fp32 */
#define RI 6  /* rows of a tile with sums of blocks, */
#define JI 2  /* and its vectors */
#define QT 4  /* queries that read a key together */
#elif defined(AVX2)
#define RF 3
#define RI 3
#define JI 2
#define QT 2
#ifndef VNNI
#define PAIRS /* bytes are multiplied in pairs, whose sums have 16 bits: see tile_pairs */
#define RP 4    /* rows of such a tile */
#define RUNS 4  /* of sums in 16 bits in a block, at most */
#endif
#else
#define RF 3
#define RI 3
#define JI 4
#define QT 4
#endif

#define LOADF(p) ((vf) * (const vfu *)(p))
#define LOADI(p) ((vi) * (const viu *)(p))
#define STOREF(p, v) (*(vfu *)(p) = (v))

INLINE vf NAME(set)(float x) { return x - (vf){0}; }
INLINE vi NAME(seti)(int32_t x) { return x - (vi){0}; }
#define SET NAME(set)
#define SETI NAME(seti)

INLINE vf NAME(fma)(vf a, vf b, vf c) {
#if defined(AVX512)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(AVX2)
    return _mm256_fmadd_ps(a, b, c);
#elif defined(NEON)
    return vfmaq_f32(c, a, b);
#else
    return a * b + c;
#endif
}
#define FMA NAME(fma)

INLINE float NAME(fma1)(float a, float b, float c) {
#ifdef HAS_FMA
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}
#define FMA1 NAME(fma1)

INLINE vf NAME(select)(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }
#define SELECT NAME(select)

INLINE vf NAME(maxf)(vf a, vf b) { return SELECT(a > b, a, b); }
#define MAXF NAME(maxf)

/* Lanes in a fixed order: halves are added to halves. */
INLINE float NAME(sum)(vf v) {
    float lane[VL];
    STOREF(lane, v);
    for (int n = VL / 2; n; n /= 2)
        for (int i = 0; i < n; i++) lane[i] += lane[i + n];
    return lane[0];
}
INLINE float NAME(max)(vf v) {
    float lane[VL], out;
    STOREF(lane, v);
    out = lane[0];
    for (int i = 1; i < VL; i++) out = lane[i] > out ? lane[i] : out;
    return out;
}

/* fp16 -> fp32; infinities do not come up */
INLINE vf NAME(halves)(const uint8_t *p) {
#if defined(AVX512)
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(AVX2)
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#else
    float out[VL];
    for (int i = 0; i < VL; i++) {
        uint16_t bits;
        memcpy(&bits, p + 2 * i, 2);
        out[i] = half_to_float(bits);
    }
    return LOADF(out);
#endif
}

#define FLOATS(v) __builtin_convertvector(v, vf)

/* acc += the four products of bytes of each lane: w unsigned, x signed. With NEON and AVX2 alone the weights are made
 * signed, and what is taken off for their offset is 0. */
#if defined(NEON) || defined(PAIRS)
#define OFFSET 0
#else
#define OFFSET 128
#endif
#ifndef PAIRS
INLINE vi NAME(dot4)(vi acc, vi w, vi x) {
#if defined(AVX512) && defined(VNNI)
    return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, (__m512i)x);
#elif defined(AVX512)
    __m512i a = (__m512i)w, b = (__m512i)x;
    __m512i even = _mm512_madd_epi16(_mm512_and_si512(a, _mm512_set1_epi16(255)), _mm512_srai_epi16(_mm512_slli_epi16(b, 8), 8));
    return acc + (vi)even + (vi)_mm512_madd_epi16(_mm512_srli_epi16(a, 8), _mm512_srai_epi16(b, 8));
#elif defined(AVX2) && defined(VNNI)
    return (vi)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)w, (__m256i)x);
#elif defined(DOTPROD)
    return vdotq_s32(acc, (int8x16_t)w, (int8x16_t)x);
#elif defined(NEON)
    int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)w), vget_low_s8((int8x16_t)x));
    int16x8_t high = vmull_s8(vget_high_s8((int8x16_t)w), vget_high_s8((int8x16_t)x));
    return acc + vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
#else
    uint8_t a[VBYTES];
    int8_t b[VBYTES];
    memcpy(a, &w, VBYTES);
    memcpy(b, &x, VBYTES);
    for (int i = 0; i < VL; i++)
        for (int k = 0; k < 4; k++) acc[i] += (int32_t)a[4 * i + k] * b[4 * i + k];
    return acc;
#endif
}

/* The same for weights of 0 to 15, whose pairs of products fit 16 bits. */
INLINE vi NAME(dot4_small)(vi acc, vi w, vi x) {
#if defined(AVX512) && !defined(VNNI)
    return acc + (vi)_mm512_madd_epi16(_mm512_maddubs_epi16((__m512i)w, (__m512i)x), _mm512_set1_epi16(1));
#else
    return NAME(dot4)(acc, w, x);
#endif
}
#endif

/* ---- functions of vectors, and activations */

/* Good to 2 units in the last place between -87 and 88, outside of which it stays at its ends. */
INLINE vf NAME(exp)(vf x) {
    x = SELECT(x > SET(88.0f), SET(88.0f), x);
    x = SELECT(x < SET(-87.0f), SET(-87.0f), x);
    const vf magic = SET(12582912.0f);
    vf n = FMA(x, SET(1.44269504f), magic) - magic;
    vf r = FMA(n, SET(-0.693359375f), x);
    r = FMA(n, SET(2.12194440e-4f), r);
    vf p = FMA(r, SET(1.9875691500e-4f), SET(1.3981999507e-3f));
    p = FMA(p, r, SET(8.3334519073e-3f));
    p = FMA(p, r, SET(4.1665795894e-2f));
    p = FMA(p, r, SET(1.6666665459e-1f));
    p = FMA(p, r, SET(5.0000001201e-1f));
    p = FMA(p, r * r, r) + SET(1.0f);
    return p * (vf)((__builtin_convertvector(n, vi) + SETI(127)) << 23);
}
#define EXP NAME(exp)

/* 1 / x to a unit in the last place. A division takes as long as 16 products with AVX-512; an estimate of 14 bits and a
 * step of Newton's take as long as 4. */
INLINE vf NAME(inverse)(vf x) {
#if defined(AVX512)
    vf estimate = _mm512_rcp14_ps(x);
    return FMA(estimate, FMA(-x, estimate, SET(1.0f)), estimate);
#else
    return SET(1.0f) / x;
#endif
}
#define INVERSE NAME(inverse)

INLINE vf NAME(sigmoid)(vf x) { return INVERSE(SET(1.0f) + EXP(-x)); }

/* A quotient of polynomials, good to 5e-7. */
INLINE vf NAME(erf)(vf x) {
    x = SELECT(x > SET(4.0f), SET(4.0f), x);
    x = SELECT(x < SET(-4.0f), SET(-4.0f), x);
    vf y = x * x;
    vf p = FMA(y, SET(-2.72614225801306e-10f), SET(2.77068142495902e-08f));
    p = FMA(y, p, SET(-2.10102402082508e-06f));
    p = FMA(y, p, SET(-5.69250639462346e-05f));
    p = FMA(y, p, SET(-7.34990630326855e-04f));
    p = FMA(y, p, SET(-2.95459980854025e-03f));
    p = FMA(y, p, SET(-1.60960333262415e-02f));
    vf q = FMA(y, SET(-1.45660718464996e-05f), SET(-2.13374055278905e-04f));
    q = FMA(y, q, SET(-1.68282697438203e-03f));
    q = FMA(y, q, SET(-7.37332916720468e-03f));
    q = FMA(y, q, SET(-1.42647390514189e-02f));
    return x * p * INVERSE(q);
}

INLINE vf NAME(activate)(vf x, int activation) {
    switch (activation) {
    case RELU: return SELECT(x < SET(0.0f), SET(0.0f), x);
    case GELU: return SET(0.5f) * x * (SET(1.0f) + NAME(erf)(x * SET(0.70710678f)));
    case GELU_TANH: return x * NAME(sigmoid)(SET(1.59576912f) * x * FMA(x * x, SET(0.044715f), SET(1.0f)));
    case SILU: return x * NAME(sigmoid)(x);
    case TANH: return FMA(SET(-2.0f), INVERSE(SET(1.0f) + EXP(x + x)), SET(1.0f));
    case QUICK_GELU: return x * NAME(sigmoid)(SET(1.702f) * x);
    case RELU_SQUARED: x = SELECT(x < SET(0.0f), SET(0.0f), x); return x * x;
    case SIGMOID: return NAME(sigmoid)(x);
    default: return x;
    }
}
#define ACTIVATED NAME(activate)

/* f over n values: whole vectors, then the rest through a vector, so that a value's result does not depend on n */
#define EACH(n, body)                                                                                                  \
    for (int64_t i = 0; i < (n); i += VL) {                                                                            \
        int64_t left = (n) - i;                                                                                        \
        body                                                                                                           \
    }
INLINE vf NAME(load_some)(const float *p, int64_t left) {
    if (left >= VL) return LOADF(p);
    float lane[VL] = {0};
    memcpy(lane, p, (size_t)left * 4);
    return LOADF(lane);
}
INLINE void NAME(store_some)(float *p, vf v, int64_t left) {
    if (left >= VL) {
        STOREF(p, v);
        return;
    }
    float lane[VL];
    STOREF(lane, v);
    memcpy(p, lane, (size_t)left * 4);
}
#define LOADS NAME(load_some)
#define STORES NAME(store_some)

/* ---- activations in the form that a product reads */

INLINE int32_t NAME(max_whole)(vi v) {
#if defined(AVX2) || defined(AVX512)
#ifdef AVX512
    __m256i half = _mm256_max_epi32(_mm512_castsi512_si256((__m512i)v), _mm512_extracti64x4_epi64((__m512i)v, 1));
#else
    __m256i half = (__m256i)v;
#endif
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
#else
    int32_t lane[VL], most;
    memcpy(lane, &v, VBYTES);
    most = lane[0];
    for (int i = 1; i < VL; i++) most = lane[i] > most ? lane[i] : most;
    return most;
#endif
}
INLINE int32_t NAME(sum_whole)(vi v) {
    int32_t lane[VL], total = 0;
    memcpy(lane, &v, VBYTES);
    for (int i = 0; i < VL; i++) total += lane[i];
    return total;
}

/* Whole numbers of 32 values, as bytes. */
INLINE void NAME(store_bytes)(int8_t *q, const vi whole[NV]) {
#if defined(AVX512)
    for (int j = 0; j < NV; j++) _mm_storeu_si128((__m128i *)(q + j * VL), _mm512_cvtepi32_epi8((__m512i)whole[j]));
#elif defined(AVX2)
    __m256i low = _mm256_packs_epi32((__m256i)whole[0], (__m256i)whole[1]), high = _mm256_packs_epi32((__m256i)whole[2], (__m256i)whole[3]);
    __m256i bytes = _mm256_packs_epi16(low, high); /* within halves: 4 bytes of each in turn */
    _mm256_storeu_si256((__m256i *)q, _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
#else
    int32_t lane[GROUP];
    memcpy(lane, whole, sizeof lane);
    for (int i = 0; i < GROUP; i++) q[i] = (int8_t)lane[i];
#endif
}

#ifdef AVX512
/* The sums, or the largest, of the lanes of four vectors, side by side. */
#define ACROSS(of_16, of_8, of_4, v)                                                                                   \
    __m512i first = of_16(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));                       \
    __m512i other = of_16(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));                       \
    __m512i all = of_16(_mm512_unpacklo_epi64(first, other), _mm512_unpackhi_epi64(first, other));                     \
    __m256i half = of_8(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));                               \
    return of_4(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
INLINE __m128i NAME(largest_of_four)(const __m512i v[4]) { ACROSS(_mm512_max_epi32, _mm256_max_epi32, _mm_max_epi32, v) }
INLINE __m128i NAME(sums_of_four)(const __m512i v[4]) { ACROSS(_mm512_add_epi32, _mm256_add_epi32, _mm_add_epi32, v) }
#undef ACROSS

/* Four groups as round_int8 does one; 0 where a number is not finite, and nothing is done. */
static UNUSED int NAME(round_four)(const float *x, int offset, int top_level, int8_t *q, float *scale, int32_t *init) {
    vf v[4][2];
    __m512i tops[4], sums[4];
    for (int b = 0; b < 4; b++) {
        for (int j = 0; j < 2; j++) v[b][j] = LOADF(x + b * GROUP + j * VL);
        tops[b] = _mm512_max_epi32((__m512i)((vi)v[b][0] & 0x7fffffff), (__m512i)((vi)v[b][1] & 0x7fffffff));
    }
    __m128i most = NAME(largest_of_four)(tops);
    if (_mm_movemask_epi8(_mm_cmpgt_epi32(most, _mm_set1_epi32(0x7f7fffff)))) return 0;
    __m128 largest = _mm_castsi128_ps(most), own = _mm_div_ps(largest, _mm_set1_ps((float)top_level));
    float inverse[4];
    _mm_storeu_ps(scale, own);
    _mm_storeu_ps(inverse, _mm_and_ps(_mm_div_ps(_mm_set1_ps(1.0f), own), _mm_cmpge_ps(largest, _mm_set1_ps(1e-30f))));
    for (int b = 0; b < 4; b++) {
        vf factor = SET(inverse[b]), magic = SET(12582912.0f);
        vi whole[2];
        for (int j = 0; j < 2; j++) whole[j] = (vi)(v[b][j] * factor + magic) - (vi)magic;
        sums[b] = (__m512i)(whole[0] + whole[1]);
        NAME(store_bytes)(q + b * GROUP, whole);
    }
    _mm_storeu_si128((__m128i *)init, _mm_mullo_epi32(NAME(sums_of_four)(sums), _mm_set1_epi32(-offset)));
    return 1;
}
#endif

static UNUSED void NAME(round_int8)(const float *x, int64_t in, int offset, int top_level, int8_t *q, float *scale, int32_t *init) {
    int64_t blocks = padded(in, GROUP) / GROUP;
    for (int64_t b = 0; b < blocks; b++) {
#ifdef AVX512
        if ((b + 4) * GROUP <= in && NAME(round_four)(x + b * GROUP, offset, top_level, q + b * GROUP, scale + b, init + b)) {
            b += 3;
            continue;
        }
#endif
        vf v[NV];
        vi top = {0};
        for (int j = 0; j < NV; j++) {
            int64_t left = in - b * GROUP - j * VL;
            v[j] = left > 0 ? LOADS(x + b * GROUP + j * VL, left) : SET(0.0f);
            vi bits = (vi)v[j] & 0x7fffffff; /* ordered as the magnitudes are, NaN above all */
            vi more = bits > top;
            top = (bits & more) | (top & ~more);
        }
        int32_t most = NAME(max_whole)(top);
        float largest;
        memcpy(&largest, &most, 4);
        int finite = most < 0x7f800000;
        scale[b] = finite ? largest / (float)top_level : NAN;
        float inverse = finite && largest >= 1e-30f ? 1.0f / scale[b] : 0.0f;
        vf factor = SET(inverse), magic = SET(12582912.0f);
        vi sums = {0}, whole[NV];
        for (int j = 0; j < NV; j++) {
            vi n = finite ? (vi)(v[j] * factor + magic) - (vi)magic : (vi){0}; /* the nearest, half to even */
            sums += n;
            whole[j] = n;
        }
        NAME(store_bytes)(q + b * GROUP, whole);
        init[b] = offset ? -offset * NAME(sum_whole)(sums) : 0;
    }
}

static inline uint16_t NAME(to_bf16)(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

typedef struct {
    const void *x; /* fp32, bf16 or int8 */
    const float *scale;
    const int32_t *init;
    int64_t ldx, blocks; /* in values */
    float *whole; /* of a panel, for many rows: its whole numbers; NULL elsewhere */
    int16_t *wide, *begin; /* of a panel, for many rows: see prepare_pairs; NULL elsewhere */
    uint8_t *longer;
} NAME(Rows);
#define Rows NAME(Rows)

enum { NAME(direct), NAME(as_fp32), NAME(as_bf16), NAME(as_int8) };

INLINE int NAME(form)(const Matrix *m, int flags) {
    int rounded = flags & ROUNDED;
    if (m->format == FP32) return NAME(direct);
    if (m->format == BF16) {
#ifdef HAS_BF16
        if (rounded) return NAME(as_bf16);
#endif
        return rounded || m->in % 2 ? NAME(as_fp32) : NAME(direct);
    }
    if (rounded) return NAME(as_int8);
    return m->in % GROUP ? NAME(as_fp32) : NAME(direct);
}

/* Whether a panel is brought into another form for the rows of a product. */
INLINE int NAME(prepares)(const Product *p) {
    int is_rounded = NAME(form)(p->matrix, p->flags) == NAME(as_int8);
    if (p->rows < MANY || p->matrix->format <= BF16) return 0;
#ifdef PAIRS
    return !is_rounded || p->matrix->format != Q4_0;
#else
    return !is_rounded;
#endif
}

/* Memory of such a panel, in full lines of the cache. */
INLINE int64_t NAME(prepared_bytes)(const Product *p) {
    int64_t in = padded(p->matrix->in, GROUP);
    if (NAME(form)(p->matrix, p->flags) != NAME(as_int8)) return in * PANEL * 4;
#ifdef PAIRS
    return p->flags & SEVEN_BITS ? padded(in / GROUP * (RUNS * PANEL * 4 + 1), 64) : in * PANEL * 2;
#else
    return 0;
#endif
}

INLINE int64_t NAME(row_bytes)(const Matrix *m) {
    int64_t in = padded(m->in, GROUP);
    return in * 4 + in / GROUP * 8;
}

#ifdef PAIRS
/* Rounded activations as many rows' products read them: plus 64, or in words, of four the first and the third first. These
 * are made of bytes at the end of their memory. */
static UNUSED void NAME(prepare_row)(int8_t *q, int64_t in, int size) {
    const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    for (int64_t k = 0; k < in; k += 16) {
        __m128i bytes = _mm_loadu_si128((const __m128i *)(q + in * (size - 1) + k));
        if (size == 2) _mm256_storeu_si256((__m256i *)(q + 2 * k), _mm256_cvtepi8_epi16(_mm_shuffle_epi8(bytes, order)));
        else _mm_storeu_si128((__m128i *)(q + k), _mm_add_epi8(bytes, _mm_set1_epi8(64)));
    }
}
#endif

/* Some rows in the form of the product, into memory for `held` rows of row_bytes. */
static UNUSED void NAME(convert)(const Product *p, int first, int last, int held, char *memory) {
    const Matrix *m = p->matrix;
    int64_t in = padded(m->in, GROUP), blocks = in / GROUP;
    int form = NAME(form)(m, p->flags);
    float *scale = (float *)(memory + (int64_t)held * in * 4);
    int32_t *init = (int32_t *)(scale + held * blocks);
    for (int r = first; r < last; r++) {
        const float *x = p->x + r * p->ldx;
        if (form == NAME(as_int8)) {
            int size = NAME(prepares)(p) && !(p->flags & SEVEN_BITS) ? 2 : 1;
            int8_t *q = (int8_t *)memory + r * in * size, *bytes = q + in * (size - 1);
            NAME(round_int8)(x, m->in, m->format == Q4_0 ? 8 : OFFSET, p->flags & SEVEN_BITS ? 63 : 127, bytes, scale + r * blocks, init + r * blocks);
#ifdef PAIRS
            if (NAME(prepares)(p)) NAME(prepare_row)(q, in, size);
#endif
        } else if (form == NAME(as_bf16)) {
            uint16_t *out = (uint16_t *)memory + r * in;
            int64_t k = 0;
#ifdef HAS_BF16
            for (; k + 16 <= m->in; k += 16) {
                __m256bh v = _mm512_cvtneps_pbh(_mm512_loadu_ps(x + k));
                memcpy(out + k, &v, 32);
            }
#endif
            for (; k < m->in; k++) out[k] = NAME(to_bf16)(x[k]);
            for (; k < in; k++) out[k] = 0;
        } else {
            float *out = (float *)memory + r * in;
            for (int64_t k = 0; k < m->in; k++)
                out[k] = m->format == BF16 && (p->flags & ROUNDED) ? bf16_to_float(NAME(to_bf16)(x[k])) : x[k];
            for (int64_t k = m->in; k < in; k++) out[k] = 0;
        }
    }
}

/* ---- products: a tile of rows times some vectors of a panel; `rows` and `vectors` are constants where it is inlined */

INLINE void NAME(tile_fp32)(const uint8_t *panel, const Rows *x, int first, const int rows, int64_t in, vf acc[][NV]) {
    const float *w = (const float *)panel, *v = (const float *)x->x + first * x->ldx;
    for (int64_t k = 0; k < in; k++, w += PANEL) {
        vf weight[NV];
        for (int j = 0; j < NV; j++) weight[j] = LOADF(w + j * VL);
        for (int r = 0; r < rows; r++) {
            vf b = SET(v[r * x->ldx + k]);
            for (int j = 0; j < NV; j++) acc[r][j] = FMA(weight[j], b, acc[r][j]);
        }
    }
}

INLINE void NAME(tile_bf16)(const uint8_t *panel, const Rows *x, int first, const int rows, int64_t in, vf acc[][NV]) {
    const uint16_t *w = (const uint16_t *)panel;
    const float *v = (const float *)x->x + first * x->ldx;
    for (int64_t k = 0; k < in; k += 2, w += PANEL * 2) {
        for (int j = 0; j < NV; j++) {
            vi both = LOADI(w + j * VL * 2);
            vf even = (vf)(both << 16), odd = (vf)(both & (int32_t)0xffff0000);
            for (int r = 0; r < rows; r++) {
                acc[r][j] = FMA(even, SET(v[r * x->ldx + k]), acc[r][j]);
                acc[r][j] = FMA(odd, SET(v[r * x->ldx + k + 1]), acc[r][j]);
            }
        }
    }
}

#ifdef HAS_BF16
INLINE void NAME(tile_dot)(const uint8_t *panel, const Rows *x, int first, const int rows, int64_t in, vf acc[][NV]) {
    const uint16_t *w = (const uint16_t *)panel, *v = (const uint16_t *)x->x + first * x->ldx;
    for (int64_t k = 0; k < in; k += 2, w += PANEL * 2) {
        vi weight[NV];
        for (int j = 0; j < NV; j++) weight[j] = LOADI(w + j * VL * 2);
        for (int r = 0; r < rows; r++) {
            int32_t pair;
            memcpy(&pair, v + r * x->ldx + k, 4);
            vi b = SETI(pair);
            for (int j = 0; j < NV; j++) acc[r][j] = _mm512_dpbf16_ps(acc[r][j], (__m512bh)weight[j], (__m512bh)b);
        }
    }
}
#endif

/* acc += sums of a block times its scales, of some vectors of a panel */
INLINE void NAME(add_block)(const uint8_t *panel, const Rows *x, const int rows, int64_t b, const int format, const int from,
                            const int vectors, vi sums[][NV], vf acc[][NV]) {
    for (int j = 0; j < vectors; j++) {
        vf own_scale = format == INT8 ? SET(1.0f) : NAME(halves)(panel + (from + j) * VL * 2);
        for (int r = 0; r < rows; r++) {
            vf factor = SET(x->scale[r * x->blocks + b]);
            if (format != INT8) factor *= own_scale;
            acc[r][j] = FMA(FLOATS(sums[r][j]), factor, acc[r][j]);
        }
    }
}

#ifdef PAIRS
#define IN_ORDER(v) __asm__("" : "+x"(v)) /* compilers make trees of sums, whose parts take more registers than there are */
#define WIDEN(pairs) _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
INLINE __m256i NAME(four)(const int8_t *v) {
    int32_t bytes;
    memcpy(&bytes, v, 4);
    return _mm256_set1_epi32(bytes);
}

/* AVX2's product of bytes, unsigned by signed, adds two products in 16 bits, which saturate; 16-bit numbers are multiplied
 * at half the rate. So there are three ways to the same exact sums of a block:
 *
 * few rows   A weight's size times the activation with the weight's sign: 2 products are at most 2 * 128 * 127 = 32,512.
 * 8 bits     Many rows: weights and activations widened to 16 bits, the weights once for all rows; of four the first and
 *            the third, then the others.
 * 7 bits     Many rows: activations plus 64, at most 127, times weights: 2 products are at most 32,512. More are summed
 *            in 16 bits from -64 times their weights on, in which they may overflow on their way, as long as the end fits:
 *            4 products of 63 * 128 do, and 8 where the weights of a block are known to be small enough. */
INLINE void NAME(signed_block)(const uint8_t *w, const Rows *x, const int8_t *v, const int rows, const int vectors, vi sums[][NV]) {
    for (int g = 0; g < GROUP / 4; g++)
        for (int j = 0; j < vectors; j++) {
            __m256i weight = (__m256i)(LOADI(w + g * PANEL * 4 + j * VBYTES) ^ (int32_t)0x80808080), size = _mm256_abs_epi8(weight);
            for (int r = 0; r < rows; r++) {
                sums[r][j] += (vi)WIDEN(_mm256_maddubs_epi16(size, _mm256_sign_epi8(NAME(four)(v + r * x->ldx + 4 * g), weight)));
                IN_ORDER(sums[r][j]);
            }
        }
}

INLINE void NAME(word_block)(const Rows *x, const int8_t *v, int64_t b, int from, const int rows, const int vectors, vi sums[][NV]) {
    const char *w = (const char *)x->wide + (b * GROUP * PANEL / 2 + from * VL) * 4;
#pragma GCC unroll 16
    for (int k = 0; k < GROUP / 2; k++)
        for (int j = 0; j < vectors; j++) {
            __m256i weight = (__m256i)LOADI(w + k * PANEL * 4 + j * VBYTES);
            for (int r = 0; r < rows; r++) {
                sums[r][j] += (vi)_mm256_madd_epi16(weight, NAME(four)(v + 2 * r * x->ldx + 4 * k));
                IN_ORDER(sums[r][j]);
            }
        }
}

INLINE void NAME(offset_block)(const uint8_t *w, const Rows *x, const int8_t *v, int64_t b, int from, const int rows, const int vectors,
                               const int run, vi sums[][NV]) {
    const char *begin = (const char *)(x->begin + b * RUNS * 2 * PANEL) + from * VBYTES;
    for (int g = 0; g < GROUP / 4; g += run) {
        __m256i part[RP][NV];
        for (int j = 0; j < vectors; j++)
            for (int r = 0; r < rows; r++) part[r][j] = (__m256i)LOADI(begin + g / run * PANEL * 4 + j * VBYTES);
        for (int n = 0; n < run; n++)
            for (int j = 0; j < vectors; j++) {
                __m256i weight = (__m256i)(LOADI(w + (g + n) * PANEL * 4 + j * VBYTES) ^ (int32_t)0x80808080);
                for (int r = 0; r < rows; r++) {
                    part[r][j] = _mm256_add_epi16(part[r][j], _mm256_maddubs_epi16(NAME(four)(v + r * x->ldx + 4 * (g + n)), weight));
                    IN_ORDER(part[r][j]);
                }
            }
        for (int j = 0; j < vectors; j++)
            for (int r = 0; r < rows; r++) {
                sums[r][j] += (vi)WIDEN(part[r][j]);
                IN_ORDER(sums[r][j]);
            }
    }
}

/* Weights of 0 to 15: the 16 products of a lane's half are at most 16 * 15 * 127. */
INLINE void NAME(nibble_block)(const uint8_t *w, const Rows *x, const int8_t *v, int64_t b, const int rows, const int vectors, vi sums[][NV]) {
    __m256i part[RP][NV];
    for (int g = 0; g < GROUP / 8; g++)
        for (int j = 0; j < vectors; j++) {
            vi weight = LOADI(w + g * PANEL * 4 + j * VBYTES), low = weight & 0x0f0f0f0f, high = (weight >> 4) & 0x0f0f0f0f;
            for (int r = 0; r < rows; r++) {
                const int8_t *own = v + r * x->ldx + 4 * g;
                __m256i pairs = _mm256_maddubs_epi16((__m256i)low, NAME(four)(own));
                part[r][j] = g ? _mm256_add_epi16(part[r][j], pairs) : pairs;
                IN_ORDER(part[r][j]);
                part[r][j] = _mm256_add_epi16(part[r][j], _mm256_maddubs_epi16((__m256i)high, NAME(four)(own + GROUP / 2)));
                IN_ORDER(part[r][j]);
            }
        }
    for (int j = 0; j < vectors; j++)
        for (int r = 0; r < rows; r++) sums[r][j] = SETI(x->init[r * x->blocks + b]) + (vi)WIDEN(part[r][j]);
}

INLINE void NAME(tile_pairs)(const uint8_t *panel, const Rows *all, int first, const int rows, int64_t in, const int format,
                             const int from, const int vectors, vf acc[][NV]) {
    const int own = format == Q4_0 ? GROUP / 2 : GROUP, head = format == INT8 ? 0 : PANEL * 2, size = all->wide ? 2 : 1;
    const int8_t *v = (const int8_t *)all->x + first * all->ldx * size;
    int64_t blocks = padded(in, GROUP) / GROUP;
    Rows rest = *all, *x = &rest;
    x->scale += first * x->blocks;
    x->init += first * x->blocks;
    vf total[RP][NV];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < vectors; j++) total[r][j] = SET(0.0f);
    for (int64_t b = 0; b < blocks; b++, panel += head + PANEL * own, v += GROUP * size) {
        const uint8_t *w = panel + head + from * VBYTES;
        vi sums[RP][NV];
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < vectors; j++) sums[r][j] = (vi){0};
        if (format == Q4_0) NAME(nibble_block)(w, x, v, b, rows, vectors, sums);
        else if (x->wide) NAME(word_block)(x, v, b, from, rows, vectors, sums);
        else if (!x->begin) NAME(signed_block)(w, x, v, rows, vectors, sums);
        else if (x->longer[b]) NAME(offset_block)(w, x, v, b, from, rows, vectors, 4, sums);
        else NAME(offset_block)(w, x, v, b, from, rows, vectors, 2, sums);
        NAME(add_block)(panel, x, rows, b, format, from, vectors, sums, total);
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < vectors; j++) acc[r][from + j] = total[r][j];
}

/* What many rows need of a panel: its weights in 16 bits, or where runs begin, and which blocks' may be long. */
static UNUSED void NAME(prepare_pairs)(const uint8_t *panel, int64_t blocks, int format, int16_t *wide, int16_t *begin, uint8_t *longer) {
    const int head = format == INT8 ? 0 : PANEL * 2;
    for (int64_t b = 0; b < blocks; b++) {
        const uint8_t *w = panel + b * (head + PANEL * GROUP) + head;
        if (wide) {
            for (int g = 0; g < GROUP / 4; g++)
                for (int j = 0; j < NV; j++) {
                    __m256i weight = (__m256i)(LOADI(w + g * PANEL * 4 + j * VBYTES) ^ (int32_t)0x80808080);
                    __m256i *target = (__m256i *)(wide + (b * GROUP + 4 * g) * PANEL + j * 2 * VL);
                    _mm256_storeu_si256(target, _mm256_srai_epi16(_mm256_slli_epi16(weight, 8), 8)); /* the first and third of 4 */
                    _mm256_storeu_si256(target + NV, _mm256_srai_epi16(weight, 8));
                }
            continue;
        }
        int is_small = 1;
        for (int pass = 0; pass < 2; pass++) { /* in runs of 4 groups, if these are small enough, else of 2 */
            const int run = pass ? 2 : 4;
            __m256i over = _mm256_setzero_si256();
            for (int g = 0; g < GROUP / 4; g += run)
                for (int j = 0; j < NV; j++) {
                    __m256i sizes = _mm256_setzero_si256(), total = sizes;
                    for (int n = 0; n < run; n++) {
                        __m256i weight = (__m256i)(LOADI(w + (g + n) * PANEL * 4 + j * VBYTES) ^ (int32_t)0x80808080);
                        sizes = _mm256_add_epi16(sizes, _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_set1_epi8(1)));
                        total = _mm256_add_epi16(total, _mm256_maddubs_epi16(_mm256_set1_epi8(64), weight));
                    }
                    over = _mm256_or_si256(over, _mm256_cmpgt_epi16(sizes, _mm256_set1_epi16(32767 / 63)));
                    int16_t *target = begin + (b * RUNS + g / run) * 2 * PANEL + j * VBYTES / 2;
                    _mm256_storeu_si256((__m256i *)target, _mm256_sub_epi16(_mm256_setzero_si256(), total));
                }
            is_small = pass ? is_small : _mm256_testz_si256(over, over);
            if (is_small) break;
        }
        longer[b] = (uint8_t)is_small;
    }
}
#else
INLINE vi NAME(bytes)(vi w, int format) { return format != Q4_0 && !OFFSET ? w ^ (int32_t)0x80808080 : w; }

/* int8, q8_0, q4_0 with activations in int8: exact sums of a block, then fp32 */
INLINE void NAME(tile_int8)(const uint8_t *panel, const Rows *all, int first, const int rows, int64_t in, const int format,
                            const int from, const int vectors, vf acc[][NV]) {
    const int8_t *v = (const int8_t *)all->x + first * all->ldx;
    const int own = format == Q4_0 ? GROUP / 2 : GROUP, head = format == INT8 ? 0 : PANEL * 2;
    int64_t blocks = padded(in, GROUP) / GROUP;
    Rows rest = *all, *x = &rest;
    x->scale += first * x->blocks;
    x->init += first * x->blocks;
    vf total[RI][NV];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < vectors; j++) total[r][j] = SET(0.0f);
    for (int64_t b = 0; b < blocks; b++, panel += head + PANEL * own) {
        const uint8_t *w = panel + head + from * VBYTES;
        vi sums[RI][NV];
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < vectors; j++) sums[r][j] = SETI(x->init[r * x->blocks + b]);
        for (int g = 0; g < own / 4; g++) {
            vi weight[NV];
            for (int j = 0; j < vectors; j++) weight[j] = NAME(bytes)(LOADI(w + g * PANEL * 4 + j * VBYTES), format);
            for (int r = 0; r < rows; r++) {
                int32_t four, more;
                memcpy(&four, v + r * x->ldx + b * GROUP + 4 * g, 4);
                if (format == Q4_0) {
                    memcpy(&more, v + r * x->ldx + b * GROUP + 16 + 4 * g, 4);
                    for (int j = 0; j < vectors; j++) {
                        vi low = weight[j] & 0x0f0f0f0f, high = (weight[j] >> 4) & 0x0f0f0f0f;
                        sums[r][j] = NAME(dot4_small)(sums[r][j], low, SETI(four));
                        sums[r][j] = NAME(dot4_small)(sums[r][j], high, SETI(more));
                    }
                } else {
                    for (int j = 0; j < vectors; j++) sums[r][j] = NAME(dot4)(sums[r][j], weight[j], SETI(four));
                }
            }
        }
        NAME(add_block)(panel, x, rows, b, format, from, vectors, sums, total);
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < vectors; j++) acc[r][from + j] = total[r][j];
}
#endif

/* the formats of blocks with activations in fp32 */
INLINE void NAME(tile_wide)(const uint8_t *panel, const Rows *x, int first, const int rows, int64_t in, const int format,
                            const int from, const int vectors, vf acc[][NV]) {
    const float *v = (const float *)x->x + first * x->ldx;
    const int own = format == Q4_0 ? GROUP / 2 : GROUP, head = format == INT8 ? 0 : PANEL * 2;
    int64_t blocks = padded(in, GROUP) / GROUP;
    for (int64_t b = 0; b < blocks; b++, panel += head + PANEL * own) {
        const uint8_t *w = panel + head + from * VBYTES;
        vf sums[RI][NV];
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < vectors; j++) sums[r][j] = SET(0.0f);
        for (int n = 0; n < GROUP && x->whole; n++) {
            int64_t at = b * GROUP + (format == Q4_0 ? n / 2 + n % 2 * (GROUP / 2) : n);
            for (int j = 0; j < vectors; j++) {
                vf weight = LOADF(x->whole + (b * GROUP + n) * PANEL + (from + j) * VL);
                for (int r = 0; r < rows; r++) sums[r][j] = FMA(weight, SET(v[r * x->ldx + at]), sums[r][j]);
            }
        }
        for (int g = 0; g < own / 4 && !x->whole; g++)
            for (int j = 0; j < vectors; j++) {
                vi word = LOADI(w + g * PANEL * 4 + j * VBYTES);
                if (format != Q4_0) word ^= (int32_t)0x80808080;
                for (int k = 0; k < 4; k++) {
                    int64_t at = b * GROUP + 4 * g + k;
                    if (format == Q4_0) {
                        vf low = FLOATS(((word >> 8 * k) & 15) - 8), high = FLOATS(((word >> (8 * k + 4)) & 15) - 8);
                        for (int r = 0; r < rows; r++) {
                            sums[r][j] = FMA(low, SET(v[r * x->ldx + at]), sums[r][j]);
                            sums[r][j] = FMA(high, SET(v[r * x->ldx + at + 16]), sums[r][j]);
                        }
                    } else {
                        vf weight = FLOATS((word << (24 - 8 * k)) >> 24);
                        for (int r = 0; r < rows; r++) sums[r][j] = FMA(weight, SET(v[r * x->ldx + at]), sums[r][j]);
                    }
                }
            }
        for (int j = 0; j < vectors; j++) {
            vf own_scale = format == INT8 ? SET(1.0f) : NAME(halves)(panel + (from + j) * VL * 2);
            for (int r = 0; r < rows; r++)
                acc[r][from + j] = format == INT8 ? acc[r][from + j] + sums[r][j] : FMA(sums[r][j], own_scale, acc[r][from + j]);
        }
    }
}

/* A panel's whole numbers in fp32, in the order of sums. */
static UNUSED void NAME(prepare_whole)(const uint8_t *panel, int64_t blocks, int format, float *whole) {
    const int own = format == Q4_0 ? GROUP / 2 : GROUP, head = format == INT8 ? 0 : PANEL * 2;
    for (int64_t b = 0; b < blocks; b++, whole += GROUP * PANEL) {
        const uint8_t *w = panel + b * (head + PANEL * own) + head;
        for (int g = 0; g < own / 4; g++)
            for (int j = 0; j < NV; j++) {
                vi word = LOADI(w + g * PANEL * 4 + j * VBYTES);
                if (format != Q4_0) word ^= (int32_t)0x80808080;
                for (int k = 0; k < 4; k++) {
                    float *target = whole + (4 * g + k) * (format == Q4_0 ? 2 : 1) * PANEL + j * VL;
                    if (format == Q4_0) {
                        STOREF(target, FLOATS(((word >> 8 * k) & 15) - 8));
                        STOREF(target + PANEL, FLOATS(((word >> (8 * k + 4)) & 15) - 8));
                    } else {
                        STOREF(target, FLOATS((word << (24 - 8 * k)) >> 24));
                    }
                }
            }
    }
}

static UNUSED __attribute__((noinline)) void NAME(finish)(const Product *p, int64_t panel, int first, int rows, vf acc[][NV]) {
    const Matrix *m = p->matrix;
    for (int j = 0; j < NV; j++) {
        int64_t at = panel * PANEL + j * VL, left = m->out - at;
        if (left <= 0) break;
        vf scale = m->format == INT8 ? LOADF(m->scale + at) : SET(1.0f);
        vf bias = p->bias ? LOADF(p->bias + at) : SET(0.0f);
        for (int r = 0; r < rows; r++) {
            vf v = acc[r][j];
            if (m->format == INT8) v *= scale;
            v = ACTIVATED(v + bias, p->activation);
            float *y = p->y + (first + r) * p->ldy + at;
            if (p->flags & ACCUMULATE) v += LOADS(y, left);
            STORES(y, v, left);
        }
    }
}

/* One size of a tile, for each format: a function of its own, so that its accumulators get the registers. */
#define TILE(rows)                                                                                                     \
    static UNUSED void NAME(fp_tile_##rows)(const Product *p, const Rows *x, int64_t panel, const uint8_t *w, int first, int form) { \
        vf acc[rows][NV];                                                                                              \
        for (int r = 0; r < rows; r++)                                                                                 \
            for (int j = 0; j < NV; j++) acc[r][j] = SET(0.0f);                                                        \
        if (p->matrix->format == FP32) NAME(tile_fp32)(w, x, first, rows, p->matrix->in, acc);                         \
        else TILE_BF16(rows)                                                                                           \
        NAME(finish)(p, panel, first, rows, acc);                                                                      \
    }
#ifdef HAS_BF16
#define TILE_BF16(rows)                                                                                                \
    if (form == NAME(as_bf16)) NAME(tile_dot)(w, x, first, rows, p->matrix->in, acc);                                  \
    else NAME(tile_bf16)(w, x, first, rows, p->matrix->in, acc);
#else
#define TILE_BF16(rows) { (void)form; NAME(tile_bf16)(w, x, first, rows, p->matrix->in, acc); }
#endif
#define BLOCK_TILE(rows, vectors, format, tile)                                                                        \
    static UNUSED __attribute__((noinline)) void NAME(tile##_##format##_##rows)(const Product *p, const Rows *x, int64_t panel, const uint8_t *w, int first) { \
        vf acc[rows][NV];                                                                                              \
        for (int r = 0; r < rows; r++)                                                                                 \
            for (int j = 0; j < NV; j++) acc[r][j] = SET(0.0f);                                                        \
        for (int from = 0; from < NV; from += vectors)                                                                 \
            NAME(tile)(w, x, first, rows, p->matrix->in, format, from, vectors, acc);                                  \
        NAME(finish)(p, panel, first, rows, acc);                                                                      \
    }
#define BLOCK_TILES(kind, rows, vectors, tile)                                                                         \
    BLOCK_TILE(rows, vectors, INT8, tile) BLOCK_TILE(rows, vectors, Q8_0, tile) BLOCK_TILE(rows, vectors, Q4_0, tile)  \
    INLINE void NAME(kind##_tile_##rows)(const Product *p, const Rows *x, int64_t panel, const uint8_t *w, int first, int form) { \
        (void)form;                                                                                                    \
        switch (p->matrix->format) {                                                                                   \
        case INT8: NAME(tile##_INT8_##rows)(p, x, panel, w, first); break;                                             \
        case Q8_0: NAME(tile##_Q8_0_##rows)(p, x, panel, w, first); break;                                             \
        default: NAME(tile##_Q4_0_##rows)(p, x, panel, w, first);                                                      \
        }                                                                                                              \
    }
TILE(1)
TILE(2)
BLOCK_TILES(wide, 1, NV, tile_wide)
BLOCK_TILES(wide, 2, JI, tile_wide)
#if RF == 12
TILE(4)
TILE(8)
TILE(12)
BLOCK_TILES(wide, 4, JI, tile_wide)
BLOCK_TILES(wide, 6, JI, tile_wide)
#else
TILE(3)
BLOCK_TILES(wide, 3, JI, tile_wide)
#endif
#ifdef PAIRS
BLOCK_TILES(int8, 1, NV, tile_pairs)
BLOCK_TILES(int8, 2, JI, tile_pairs)
BLOCK_TILES(int8, 4, 1, tile_pairs)
#else
BLOCK_TILES(int8, 1, NV, tile_int8)
BLOCK_TILES(int8, 2, JI, tile_int8)
#if RF == 12
BLOCK_TILES(int8, 4, JI, tile_int8)
BLOCK_TILES(int8, 6, JI, tile_int8)
#else
BLOCK_TILES(int8, 3, JI, tile_int8)
#endif
#endif

#define RUN(kind, n)                                                                                                   \
    if (rows - r >= n) {                                                                                               \
        NAME(kind##_tile_##n)(p, x, panel, w, r, form);                                                                \
        r += n;                                                                                                        \
        continue;                                                                                                      \
    }

static UNUSED void NAME(panel_rows)(const Product *p, const Rows *x, int64_t panel, int rows, int form) {
    const uint8_t *w = p->matrix->data + panel * panel_bytes(p->matrix->format, p->matrix->in);
    if (p->matrix->format <= BF16) {
        for (int r = 0; r < rows;) {
#if RF == 12
            RUN(fp, 12) RUN(fp, 8) RUN(fp, 4)
#else
            RUN(fp, 3)
#endif
            RUN(fp, 2) RUN(fp, 1)
        }
        return;
    }
    if (x->whole) NAME(prepare_whole)(w, x->blocks, p->matrix->format, x->whole);
    if (form != NAME(as_int8)) {
        for (int r = 0; r < rows;) {
#if RF == 12
            RUN(wide, 6) RUN(wide, 4)
#else
            RUN(wide, 3)
#endif
            RUN(wide, 2) RUN(wide, 1)
        }
        return;
    }
#ifdef PAIRS
    if (x->wide || x->begin) NAME(prepare_pairs)(w, x->blocks, p->matrix->format, x->wide, x->begin, x->longer);
#endif
    for (int r = 0; r < rows;) {
#if RF == 12
        RUN(int8, 6) RUN(int8, 4)
#elif defined(PAIRS)
        RUN(int8, 4)
#else
        RUN(int8, 3)
#endif
        RUN(int8, 2) RUN(int8, 1)
    }
}

/* y = activation(W x + bias) by all workers, each for its panels. Few rows are converted by each worker for itself. */
static void NAME(multiply)(Worker *worker, const Product *whole) {
    const Matrix *m = whole->matrix;
    int form = NAME(form)(m, whole->flags);
    int64_t panels = padded(m->out, PANEL) / PANEL, in = padded(m->in, GROUP), blocks = in / GROUP;
    int64_t begin = panels * worker->index / worker->count, end = panels * (worker->index + 1) / worker->count;
    for (int first = 0; first < whole->rows; first += CHUNK) {
        Product p = *whole;
        p.rows = whole->rows - first < CHUNK ? whole->rows - first : CHUNK;
        p.x += first * p.ldx;
        p.y += first * p.ldy;
        Rows x = {p.x, NULL, NULL, p.ldx, blocks, NULL, NULL, NULL, NULL};
        int together = form != NAME(direct) && p.rows > 4 && worker->count > 1;
        size_t own = NAME(prepares)(&p) ? (size_t)NAME(prepared_bytes)(&p) : 0;
        size_t bytes = form == NAME(direct) ? 0 : (size_t)p.rows * (size_t)NAME(row_bytes)(m);
        char *prepared = grow(&worker->scratch, &worker->scratch_bytes, own + (together ? 0 : bytes));
        if (form != NAME(direct)) {
            char *memory;
            if (together) {
                if (worker->index == 0) grow(&worker->team->shared, &worker->team->shared_bytes, bytes);
                barrier(worker);
                memory = worker->team->shared;
                if (memory) NAME(convert)(&p, p.rows * worker->index / worker->count, p.rows * (worker->index + 1) / worker->count, p.rows, memory);
                barrier(worker);
            } else {
                memory = prepared ? prepared + own : NULL;
                if (memory) NAME(convert)(&p, 0, p.rows, p.rows, memory);
            }
            if (!memory) {
                worker->team->failed = 1;
                continue;
            }
            x.x = memory;
            x.ldx = in;
            x.scale = (const float *)(memory + (int64_t)p.rows * in * 4);
            x.init = (const int32_t *)(x.scale + p.rows * blocks);
        }
        if (own && !prepared) {
            worker->team->failed = 1;
            continue;
        }
        if (own && form != NAME(as_int8)) x.whole = (float *)prepared;
#ifdef PAIRS
        else if (own && !(p.flags & SEVEN_BITS)) x.wide = (int16_t *)prepared;
        else if (own) x.begin = (int16_t *)prepared, x.longer = (uint8_t *)(x.begin + blocks * RUNS * 2 * PANEL);
#endif
        for (int64_t panel = begin; panel < end; panel++) NAME(panel_rows)(&p, &x, panel, p.rows, form);
    }
}

static void NAME(product)(Worker *worker, void *argument) { NAME(multiply)(worker, argument); }

/* ---- attention of some queries (rows and heads that read the same keys) over pages */

/* What is read next. Asking for it in L1 takes the few places for lines that L1 waits for, and is slower than not asking;
 * weights, which are one stream, are left to the processor altogether. */
#define INTO_L2(p) __builtin_prefetch(p, 0, 2)

typedef struct {
    const float *q;
    float *out;
    const float *bias; /* of the head, by distance */
    int32_t first, last; /* keys that it sees */
} NAME(Query);
#define Query NAME(Query)

/* Dot products of queries with the tokens of a page. */
INLINE void NAME(dots)(const Query *query, const int queries, const float *keys, const float *ahead, int64_t width,
                       float scale, float *out, int64_t ld) {
    vf even[QT][NP], odd[QT][NP];
    for (int n = 0; n < queries; n++)
        for (int j = 0; j < NP; j++) even[n][j] = odd[n][j] = SET(0.0f);
    int64_t d = 0;
    for (; d + 2 <= width; d += 2) {
        INTO_L2(ahead + d * PAGE); /* a line is 16 numbers */
        INTO_L2(ahead + (d + 1) * PAGE);
        for (int j = 0; j < NP; j++) {
            vf first = LOADF(keys + d * PAGE + j * VL), second = LOADF(keys + (d + 1) * PAGE + j * VL);
            for (int n = 0; n < queries; n++) {
                even[n][j] = FMA(first, SET(query[n].q[d]), even[n][j]);
                odd[n][j] = FMA(second, SET(query[n].q[d + 1]), odd[n][j]);
            }
        }
    }
    for (; d < width; d++)
        for (int j = 0; j < NP; j++)
            for (int n = 0; n < queries; n++)
                even[n][j] = FMA(LOADF(keys + d * PAGE + j * VL), SET(query[n].q[d]), even[n][j]);
    for (int n = 0; n < queries; n++)
        for (int j = 0; j < NP; j++) STOREF(out + n * ld + j * VL, (even[n][j] + odd[n][j]) * SET(scale));
}

/* Some columns of the weighted sum of values. */
INLINE void NAME(mix)(const Query *query, const int queries, const int64_t *pages, int64_t offset, int32_t first, int32_t last,
                      const float *weight, int64_t ld, int64_t width, int64_t column, const int vectors) {
    vf acc[QT][4];
    for (int n = 0; n < queries; n++)
        for (int j = 0; j < vectors; j++) acc[n][j] = SET(0.0f);
    for (int32_t at = first / PAGE * PAGE; at <= last; at += PAGE) {
        const float *value = (const float *)(intptr_t)pages[at / PAGE] + offset + column;
        int32_t begin = at < first ? first - at : 0, count = last - at < PAGE ? last - at + 1 : PAGE;
        for (int32_t t = begin; t < count; t++) {
            for (int j = 0; j < vectors; j++) {
                vf v = LOADF(value + t * width + j * VL);
                for (int n = 0; n < queries; n++) acc[n][j] = FMA(v, SET(weight[n * ld + at - first / PAGE * PAGE + t]), acc[n][j]);
            }
        }
    }
    for (int n = 0; n < queries; n++)
        for (int j = 0; j < vectors; j++) STOREF(query[n].out + column + j * VL, acc[n][j] * SET(weight[n * ld - 1]));
}

/* Scores into weights; the place before them gets 1 / their sum. */
static UNUSED void NAME(softmax)(const Query *query, float *s, int32_t base, int32_t total, int64_t distances) {
    int32_t low = query->first - base, high = query->last - base;
    if (query->bias)
        for (int32_t i = low; i <= high; i++) {
            int64_t distance = high - i;
            s[i] += query->bias[distance < distances ? distance : distances - 1];
        }
    for (int32_t i = 0; i < low; i++) s[i] = -INFINITY;
    for (int32_t i = high + 1; i < total; i++) s[i] = -INFINITY;
    vf top[NP], sums[NP];
    for (int j = 0; j < NP; j++) top[j] = SET(-INFINITY), sums[j] = SET(0.0f);
    for (int32_t i = 0; i < total; i += PAGE)
        for (int j = 0; j < NP; j++) top[j] = MAXF(LOADF(s + i + j * VL), top[j]);
    for (int j = 1; j < NP; j++) top[0] = MAXF(top[0], top[j]);
    vf most = SET(NAME(max)(top[0]));
    for (int32_t i = 0; i < total; i += PAGE)
        for (int j = 0; j < NP; j++) {
            vf v = LOADF(s + i + j * VL);
            v = SELECT(v == SET(-INFINITY), SET(0.0f), EXP(v - most));
            STOREF(s + i + j * VL, v);
            sums[j] += v;
        }
    float lane[PAGE];
    for (int j = 0; j < NP; j++) STOREF(lane + j * VL, sums[j]);
    for (int half = PAGE / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    s[-1] = 1.0f / lane[0];
}

/* A page's part of some columns of the sum, onto what is there. */
INLINE void NAME(mix_page)(float *out, const float *value, const float *ahead, const float *weight, int32_t begin,
                           int32_t count, int64_t width, const int vectors) {
    vf acc[4];
    for (int j = 0; j < vectors; j++) acc[j] = LOADF(out + j * VL);
    for (int32_t t = begin; t < count; t++) {
        for (int byte = 0; byte < vectors * VBYTES; byte += 64) INTO_L2((const char *)(ahead + t * width) + byte);
        for (int j = 0; j < vectors; j++) acc[j] = FMA(LOADF(value + t * width + j * VL), SET(weight[t]), acc[j]);
    }
    for (int j = 0; j < vectors; j++) STOREF(out + j * VL, acc[j]);
}

/* One row: a page of all heads after another, which is one stream of memory. In the order of sums of attend_tile. */
static void NAME(attend_row)(const Query *query, int heads, int group, const int64_t *pages, int64_t keys, int64_t values,
                             int64_t width, float scale, int64_t distances, float *scratch, int64_t ld) {
    int32_t first = query->first, last = query->last, base = first / PAGE * PAGE, total = last / PAGE * PAGE + PAGE - base;
    for (int32_t at = 0; at < total; at += PAGE) {
        const int64_t *address = pages + (base + at) / PAGE;
        const float *page = (const float *)(intptr_t)address[0] + keys;
        const float *next = at + PAGE < total ? (const float *)(intptr_t)address[1] + keys : page;
        for (int n = 0; n < heads; n++) {
            const float *own = page + n / group * PAGE * width, *ahead = n + group < heads ? own + PAGE * width : next;
            NAME(dots)(query + n, 1, own, ahead, width, scale, scratch + n * ld + at, ld);
        }
    }
    for (int n = 0; n < heads; n++) {
        NAME(softmax)(&query[n], scratch + n * ld, base, total, distances);
        memset(query[n].out, 0, (size_t)width * 4);
    }
    for (int32_t at = 0; at < total; at += PAGE) {
        const int64_t *address = pages + (base + at) / PAGE;
        const float *page = (const float *)(intptr_t)address[0] + values;
        const float *next = at + PAGE < total ? (const float *)(intptr_t)address[1] + values : page;
        int32_t begin = base + at < first ? first - base - at : 0, count = last - base - at < PAGE ? last - base - at + 1 : PAGE;
        for (int n = 0; n < heads; n++) {
            const float *value = page + n / group * PAGE * width, *weight = scratch + n * ld + at;
            const float *ahead = n + group < heads ? value + PAGE * width : next;
            float *out = query[n].out;
            int64_t column = 0;
            for (; column + 4 * VL <= width; column += 4 * VL)
                NAME(mix_page)(out + column, value + column, ahead + column, weight, begin, count, width, 4);
            for (; column + VL <= width; column += VL)
                NAME(mix_page)(out + column, value + column, ahead + column, weight, begin, count, width, 1);
            for (; column < width; column++)
                for (int32_t t = begin; t < count; t++) out[column] = FMA1(value[t * width + column], weight[t], out[column]);
        }
    }
    for (int n = 0; n < heads; n++)
        EACH(width, STORES(query[n].out + i, LOADS(query[n].out + i, left) * SET(scratch[n * ld - 1]), left);)
}

INLINE void NAME(attend_tile)(const Query *query, const int queries, const int64_t *pages, int64_t keys, int64_t values,
                              int64_t width, float scale, int64_t distances, float *scratch, int64_t ld) {
    int32_t first = query[0].first, last = query[0].last;
    for (int n = 1; n < queries; n++) {
        first = query[n].first < first ? query[n].first : first;
        last = query[n].last > last ? query[n].last : last;
    }
    int32_t base = first / PAGE * PAGE, total = last / PAGE * PAGE + PAGE - base;
    for (int32_t at = 0; at < total; at += PAGE) {
        const float *own = (const float *)(intptr_t)pages[(base + at) / PAGE] + keys;
        const float *ahead = at + PAGE < total ? (const float *)(intptr_t)pages[(base + at) / PAGE + 1] + keys : own;
        NAME(dots)(query, queries, own, ahead, width, scale, scratch + at, ld);
    }
    for (int n = 0; n < queries; n++) NAME(softmax)(&query[n], scratch + n * ld, base, total, distances);
    int64_t column = 0;
    for (; column + 4 * VL <= width; column += 4 * VL)
        NAME(mix)(query, queries, pages, values, first, last, scratch, ld, width, column, 4);
    for (; column + VL <= width; column += VL)
        NAME(mix)(query, queries, pages, values, first, last, scratch, ld, width, column, 1);
    for (; column < width; column++)
        for (int n = 0; n < queries; n++) {
            float acc = 0;
            for (int32_t i = first; i <= last; i++) {
                const float *page = (const float *)(intptr_t)pages[i / PAGE] + values;
                acc = FMA1(page[i % PAGE * width + column], scratch[n * ld + i - base], acc);
            }
            query[n].out[column] = acc * scratch[n * ld - 1];
        }
}

static UNUSED void NAME(attend_one)(const Query *q, const int64_t *pages, int64_t keys, int64_t values, int64_t width,
                                    float scale, int64_t distances, float *scratch, int64_t ld) {
    NAME(attend_tile)(q, 1, pages, keys, values, width, scale, distances, scratch, ld);
}
static UNUSED void NAME(attend_many)(const Query *q, const int64_t *pages, int64_t keys, int64_t values, int64_t width,
                                     float scale, int64_t distances, float *scratch, int64_t ld) {
    NAME(attend_tile)(q, QT, pages, keys, values, width, scale, distances, scratch, ld);
}

static inline float *NAME(at)(const Step *s, const Op *op, int operand, int64_t row) {
    return s->buffers[op->buffer[operand]] + row * s->widths[op->buffer[operand]] + op->start[operand];
}

static void NAME(ask)(const Step *s, const Op *op, const Cache *cache, int row, int64_t head, Query *q) {
    int64_t width = cache->head_width;
    q->q = NAME(at)(s, op, 1, row) + head * width;
    q->out = NAME(at)(s, op, 0, row) + head * width;
    q->bias = op->p[0] ? op->p[0] + head * op->n[2] : NULL;
    q->last = op->code == ATTEND ? s->positions[row] : cache->lengths[s->slots[row]] - 1;
    q->first = op->code == ATTEND && op->n[1] >= 0 && q->last > op->n[1] ? q->last - (int32_t)op->n[1] : 0;
}

/* op->n: heads, keys seen before the own one (-1: all), distances of the bias. Queries of one slot and one head of keys
 * are taken together; who takes which does not matter. */
static void NAME(attend)(Worker *worker, const Step *s, const Op *op) {
    const Cache *cache = op->code == ATTEND ? &s->cache : &s->cross;
    int64_t heads = op->n[0], group = heads / cache->key_heads, width = cache->head_width, longest = 1, task = 0;
    for (int r = 0; r < s->rows; r++) {
        int64_t length = op->code == ATTEND ? s->positions[r] + 1 : cache->lengths[s->slots[r]];
        longest = length > longest ? length : longest;
    }
    int64_t ld = padded(longest, PAGE) + 2 * PAGE, most = heads > QT ? heads : QT;
    size_t bytes = (size_t)(most * ld + PAGE) * 4;
    char *memory = grow(&worker->scratch, &worker->scratch_bytes, bytes + (size_t)most * sizeof(Query));
    if (!memory) {
        worker->team->failed = 1;
        return;
    }
    float *scratch = (float *)memory + PAGE; /* the place before each query's scores holds 1 / their sum */
    Query *queries = (Query *)(memory + bytes);
    int64_t block = (int64_t)op->layer * 2 * cache->key_heads * PAGE * width, values = cache->key_heads * PAGE * width;
    int64_t begin = cache->key_heads * worker->index / worker->count, end = cache->key_heads * (worker->index + 1) / worker->count;
    for (int row = 0, rows; row < s->rows; row += rows) {
        int slot = s->slots[row];
        const int64_t *pages = cache->pages + slot * cache->stride;
        for (rows = 1; row + rows < s->rows && s->slots[row + rows] == slot;) rows++;
        int64_t total = rows * group; /* queries of each head of keys */
        if (total < QT || (op->code == CROSS_ATTEND && cache->lengths[slot] == 0)) {
            for (int r = row; r < row + rows && begin < end; r++) {
                for (int64_t n = begin * group; n < end * group; n++) NAME(ask)(s, op, cache, r, n, &queries[n - begin * group]);
                if (queries[0].last >= 0)
                    NAME(attend_row)(queries, (int)((end - begin) * group), (int)group, pages, block + begin * PAGE * width,
                                     block + values + begin * PAGE * width, width, op->f[0], op->n[2], scratch, ld);
                else
                    memset(queries[0].out, 0, (size_t)((end - begin) * group * width) * 4);
            }
            continue;
        }
        for (int64_t head = 0; head < cache->key_heads; head++) {
            int64_t own = block + head * PAGE * width;
            for (int64_t n = 0; n < total; n += QT) {
                int count = total - n < QT ? (int)(total - n) : QT;
                if (task++ % worker->count != worker->index) continue;
                for (int i = 0; i < count; i++)
                    NAME(ask)(s, op, cache, row + (int)((n + i) / group), head * group + (n + i) % group, &queries[i]);
                if (count == QT)
                    NAME(attend_many)(queries, pages, own, own + values, width, op->f[0], op->n[2], scratch, ld);
                else
                    for (int i = 0; i < count; i++)
                        NAME(attend_one)(queries + i, pages, own, own + values, width, op->f[0], op->n[2], scratch, ld);
            }
        }
    }
}

static void NAME(append)(const Step *s, const Op *op, int first, int last) {
    const Cache *cache = &s->cache;
    int64_t width = cache->head_width;
    for (int r = first; r < last; r++) {
        const float *key = NAME(at)(s, op, 2, r), *value = NAME(at)(s, op, 3, r);
        int32_t position = s->positions[r];
        float *page = (float *)(intptr_t)cache->pages[s->slots[r] * cache->stride + position / PAGE];
        float *keys = page + (int64_t)op->layer * 2 * cache->key_heads * PAGE * width;
        float *values = keys + cache->key_heads * PAGE * width;
        for (int64_t head = 0; head < cache->key_heads; head++) {
            float *k = keys + head * PAGE * width + position % PAGE;
            for (int64_t d = 0; d < width; d++) k[d * PAGE] = key[head * width + d];
            memcpy(values + head * PAGE * width + position % PAGE * width, value + head * width, (size_t)width * 4);
        }
    }
}

/* ---- what is done for each row alone */

static void NAME(layer_norm)(const float *x, float *y, int64_t n, const float *weight, const float *bias, float eps) {
    vf total = SET(0.0f), squares = SET(0.0f);
    EACH(n, total += LOADS(x + i, left);)
    float mean = NAME(sum)(total) / (float)n;
    EACH(n, vf v = LOADS(x + i, left) - SET(mean);
         if (left < VL) { float lane[VL]; STOREF(lane, v); for (int64_t l = left; l < VL; l++) lane[l] = 0; v = LOADF(lane); }
         squares = FMA(v, v, squares);)
    float factor = 1.0f / sqrtf(NAME(sum)(squares) / (float)n + eps);
    EACH(n, vf v = (LOADS(x + i, left) - SET(mean)) * SET(factor);
         if (weight) v *= LOADS(weight + i, left);
         if (bias) v += LOADS(bias + i, left);
         STORES(y + i, v, left);)
}

static void NAME(rms_norm)(const float *x, float *y, int64_t n, const float *weight, float eps) {
    vf squares = SET(0.0f);
    EACH(n, vf v = LOADS(x + i, left); squares = FMA(v, v, squares);)
    float factor = 1.0f / sqrtf(NAME(sum)(squares) / (float)n + eps);
    EACH(n, vf v = LOADS(x + i, left) * SET(factor);
         if (weight) v *= LOADS(weight + i, left);
         STORES(y + i, v, left);)
}

static void NAME(rotate)(float *x, const float *cosine, const float *sine, int64_t half, int interleaved) {
    for (int64_t i = 0; i < half; i++) {
        float *a = x + (interleaved ? 2 * i : i), *b = interleaved ? a + 1 : a + half;
        float first = *a, second = *b;
        *a = FMA1(second, -sine[i], first * cosine[i]);
        *b = FMA1(first, sine[i], second * cosine[i]);
    }
}

static void NAME(by_row)(const Step *s, const Op *op, int row) {
    float *y = NAME(at)(s, op, 0, row);
    const float *x = NAME(at)(s, op, 1, row);
    int64_t n = op->n[0];
    switch (op->code) {
    case EMBED: dense_row(op->matrix, s->tokens[row], op->f[0], y); return;
    case ADD_POSITION: x = op->p[0] + (s->positions[row] + op->n[1]) * n; EACH(n, STORES(y + i, LOADS(y + i, left) + LOADS(x + i, left), left);) return;
    case ADD_VECTOR: x = op->p[0]; EACH(n, STORES(y + i, LOADS(y + i, left) + LOADS(x + i, left), left);) return;
    case ADD: EACH(n, STORES(y + i, LOADS(y + i, left) + LOADS(x + i, left), left);) return;
    case COPY: EACH(n, STORES(y + i, LOADS(x + i, left) * SET(op->f[0]), left);) return;
    case ACTIVATE: EACH(n, STORES(y + i, ACTIVATED(LOADS(x + i, left), op->activation), left);) return;
    case GATE: {
        const float *v = NAME(at)(s, op, 2, row);
        EACH(n, STORES(y + i, ACTIVATED(LOADS(x + i, left), op->activation) * LOADS(v + i, left), left);)
        return;
    }
    case LAYER_NORM: NAME(layer_norm)(x, y, n, op->p[0], op->p[1], op->f[0]); return;
    case RMS_NORM:
        for (int64_t at = 0; at < n; at += op->n[1]) NAME(rms_norm)(x + at, y + at, op->n[1], op->p[0], op->f[0]);
        return;
    case ROTATE: {
        const Rotation *rotation = &s->rotations[op->n[2]];
        const float *cosine = rotation->cosine + row * rotation->half, *sine = rotation->sine + row * rotation->half;
        float own[2][512];
        if (op->n[3]) { /* shifted positions: angles of their own */
            for (int64_t i = 0; i < rotation->half && i < 512; i++) {
                float angle = (float)(s->positions[row] + op->n[3]) * rotation->frequencies[i];
                own[0][i] = cosf(angle) * rotation->amplitude;
                own[1][i] = sinf(angle) * rotation->amplitude;
            }
            cosine = own[0], sine = own[1];
        }
        for (int64_t at = 0; at < n; at += op->n[1]) NAME(rotate)(y + at, cosine, sine, rotation->half, op->flags & INTERLEAVED);
        return;
    }
    }
}

/* ---- the best of all scores: by falling score, then by rising id */

static void NAME(best)(const float *scores, int64_t count, int top, int wants_log_sum, int64_t *ids, float *values, float *log_sum) {
    int held = 0;
    vi bad = {0};
    vf peak = SET(-INFINITY);
    int64_t whole = count / VL * VL;
    for (int64_t i = 0; i < whole; i += VL) {
        vf v = LOADF(scores + i);
        bad |= (v - v != 0.0f); /* NaN and infinities */
        peak = MAXF(v, peak);
    }
    int32_t lane[VL], any = 0;
    memcpy(lane, &bad, VBYTES);
    for (int i = 0; i < VL; i++) any |= lane[i];
    float most = NAME(max)(peak);
    for (int64_t i = whole; i < count; i++) {
        any |= scores[i] - scores[i] != 0.0f;
        most = scores[i] > most ? scores[i] : most;
    }
    if (any) { /* a score is not finite: no token is the best */
        for (int n = 0; n < top; n++) ids[n] = -1, values[n] = NAN;
        *log_sum = NAN;
        return;
    }
    float least = -INFINITY;
    for (int64_t block = 0; block < count && top; block += 64) {
        int64_t end = block + 64 < count ? block + 64 : count;
        if (held == top) {
            if (top == 1 && least == most) break;
            int32_t hit = 0;
            if (end - block == 64) {
                vi more = {0};
                for (int j = 0; j < 64; j += VL) more |= LOADF(scores + block + j) > SET(least);
                memcpy(lane, &more, VBYTES);
                for (int i = 0; i < VL; i++) hit |= lane[i];
                if (!hit) continue;
            }
        }
        for (int64_t i = block; i < end; i++) {
            float v = scores[i];
            if (held == top && !(v > least)) continue;
            int at = held < top ? held++ : top - 1;
            for (; at > 0 && v > values[at - 1]; at--) values[at] = values[at - 1], ids[at] = ids[at - 1];
            values[at] = v;
            ids[at] = i;
            least = values[held - 1];
        }
    }
    for (int n = held; n < top; n++) ids[n] = -1, values[n] = -INFINITY;
    if (wants_log_sum) {
        double total = 0;
        for (int64_t block = 0; block < whole; block += 1024) {
            vf part = SET(0.0f);
            for (int64_t i = block; i < whole && i < block + 1024; i += VL) part += EXP(LOADF(scores + i) - SET(most));
            total += NAME(sum)(part);
        }
        for (int64_t i = whole; i < count; i++) total += exp((double)scores[i] - most);
        *log_sum = most + (float)log(total);
    }
}

/* ---- a step */

INLINE int NAME(is_by_row)(int code) { return code != MULTIPLY && code != ATTEND && code != CROSS_ATTEND && code != SCORES; }

static void NAME(scores)(Worker *worker, const Step *s, const Op *op) {
    int64_t width = op->matrix->in, count = op->matrix->out;
    int first = s->wanted_count * worker->index / worker->count, last = s->wanted_count * (worker->index + 1) / worker->count;
    for (int n = first; n < last; n++) memcpy(s->hidden + n * width, NAME(at)(s, op, 1, s->wanted[n]), (size_t)width * 4);
    barrier(worker);
    Product product = {op->matrix, s->hidden, op->p[0], s->scores, width, count, s->wanted_count, NONE, op->flags, 0};
    NAME(multiply)(worker, &product);
    barrier(worker);
    for (int n = first; n < last && (s->top || s->wants_log_sum); n++)
        NAME(best)(s->scores + n * count, count, s->top, s->wants_log_sum, s->ids + n * s->top, s->values + n * s->top, s->log_sum + n);
}

static void NAME(step)(Worker *worker, void *argument) {
    const Step *s = argument;
    int first = s->rows * worker->index / worker->count, last = s->rows * (worker->index + 1) / worker->count;
    for (int n = 0; n < s->rotation_count; n++) {
        const Rotation *rotation = &s->rotations[n];
        for (int r = first; r < last; r++)
            for (int64_t i = 0; i < rotation->half; i++) {
                float angle = (float)s->positions[r] * rotation->frequencies[i];
                rotation->cosine[r * rotation->half + i] = cosf(angle) * rotation->amplitude;
                rotation->sine[r * rotation->half + i] = sinf(angle) * rotation->amplitude;
            }
    }
    for (int n = 0; n < s->op_count; n++) {
        const Op *op = &s->ops[n];
        if (n && !(NAME(is_by_row)(op->code) && NAME(is_by_row)(s->ops[n - 1].code))) barrier(worker);
        if (NAME(is_by_row)(op->code)) {
            for (int r = first; r < last; r++) NAME(by_row)(s, op, r);
        } else if (op->code == MULTIPLY) {
            Product product = {op->matrix, NAME(at)(s, op, 1, 0), op->p[0], NAME(at)(s, op, 0, 0), s->widths[op->buffer[1]],
                               s->widths[op->buffer[0]], s->rows, op->activation, op->flags, 0};
            NAME(multiply)(worker, &product);
        } else if (op->code == SCORES) {
            if (s->wanted_count) NAME(scores)(worker, s, op);
        } else {
            if (op->code == ATTEND) {
                NAME(append)(s, op, first, last);
                barrier(worker);
            }
            NAME(attend)(worker, s, op);
        }
    }
}

#undef vf
#undef vi
#undef vfu
#undef viu
#undef VL
#undef NV
#undef NP
#undef RF
#undef RI
#undef JI
#undef QT
#undef LOADF
#undef LOADI
#undef STOREF
#undef SET
#undef SETI
#undef FMA
#undef FMA1
#undef SELECT
#undef MAXF
#undef FLOATS
#undef OFFSET
#undef EXP
#undef INVERSE
#undef ACTIVATED
#undef EACH
#undef LOADS
#undef STORES
#undef Rows
#undef INTO_L2
#undef TILE
#undef TILE_BF16
#undef PAIRS
#undef IN_ORDER
#undef RP
#undef RUNS
#undef WIDEN
#undef BLOCK_TILE
#undef BLOCK_TILES
#undef RUN
#undef Query
#endif
