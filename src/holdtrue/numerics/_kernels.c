/* Kernels of portable numerics: a plain C ABI, called through ctypes with data pointers.
 *
 * Everything here has a twin in torch operations (_matmul.py, _sums.py, _functions.py, _philox.py) with the same
 * bits. That holds because each step is an integer operation or one IEEE operation in a written order: build with
 * -ffp-contract=off and without -ffast-math. No Python or torch header is needed.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define HT_X86 1
#include <immintrin.h>
#endif

#ifdef __FAST_MATH__
#error "portable numerics needs IEEE arithmetic: build without -ffast-math"
#endif

#define ENGINE_GENERIC 0
#define ENGINE_AVX2 1
#define ENGINE_VNNI 2

#define ABI_VERSION 9
int ht_abi_version(void) { return ABI_VERSION; }

/* The best engine of this processor. */
int ht_best_engine(void) {
#ifdef HT_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
    return ENGINE_VNNI;
  if (__builtin_cpu_supports("avx2")) return ENGINE_AVX2;
#endif
  return ENGINE_GENERIC;
}

/* The same source three times, for three instruction sets. avx512f has fused multiply-adds of its own, so only
 * -ffp-contract=off keeps them out; the self-test (_selftest.py) refuses a build in which it did not. */
#define NAME_(base, suffix) base##_##suffix
#define NAME2(base, suffix) NAME_(base, suffix)
#define FN(base) NAME2(base, ISA)

#include "_coefficients.h"
#include "_operands.h"

#define ISA generic
#define WIDTH 2 /* float64 numbers in a vector */
#include "_lanes.h"
#include "_digits.h"
#include "_rows.h"
#undef ISA
#undef WIDTH
#ifdef HT_X86
#pragma GCC push_options
#pragma GCC target("avx2")
#define ISA avx2
#define WIDTH 4
#include "_lanes.h"
#include "_digits.h"
#include "_rows.h"
#undef ISA
#undef WIDTH
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#define ISA avx512
#define WIDTH 8
#include "_lanes.h"
#include "_digits.h"
#include "_rows.h"
#undef ISA
#undef WIDTH
#pragma GCC pop_options
#define PICK(engine, base) \
  ((engine) == ENGINE_VNNI ? base##_avx512 : (engine) == ENGINE_AVX2 ? base##_avx2 : base##_generic)
#else
#define PICK(engine, base) base##_generic
#endif

/* ---- sums, functions, random words: see _lanes.h ---- */

void ht_sum_f32(const float *x, double *out, int64_t outer, int64_t n, int64_t inner, int engine) {
  PICK(engine, sum_f32)(x, out, outer, n, inner);
}
void ht_sum_f64(const double *x, double *out, int64_t outer, int64_t n, int64_t inner, int engine) {
  PICK(engine, sum_f64)(x, out, outer, n, inner);
}
int ht_function(int which, const float *x, float *y, int64_t n, int engine) {
  return PICK(engine, function)(which, x, y, n);
}
void ht_philox(uint64_t key, uint64_t call, int64_t first, int64_t blocks, int32_t *out, int engine) {
  PICK(engine, philox)(key, call, first, blocks, (uint32_t *)out);
}

/* ---- norms and softmax: see _rows.h ---- */

void ht_moments(const float *x, double *mean, double *square, int64_t N, int64_t C, int64_t L, double *line, int engine) {
  PICK(engine, moments)(x, mean, square, N, C, L, line);
}
void ht_normalise(const float *x, float *y, int64_t N, int64_t C, int64_t L, const double *mean, const double *scale,
                  const float *weight, const float *bias, int per_c, int engine) {
  PICK(engine, normalise)(x, y, N, C, L, mean, scale, weight, bias, per_c);
}
void ht_normalise_back(const float *grad, const float *x, int64_t N, int64_t C, int64_t L, const double *mean,
                       const double *scale, const float *weight, int per_c, float *gx, double *gw, double *gb, double *along,
                       double *room, int engine) {
  PICK(engine, normalise_back)(grad, x, N, C, L, mean, scale, weight, per_c, gx, gw, gb, along, room);
}
void ht_softmax(const float *x, float *y, int64_t rows, int64_t n, int is_log, double *line, int engine) {
  PICK(engine, softmax)(x, y, rows, n, is_log, line);
}
void ht_softmax_back(const float *grad, const float *y, float *gx, int64_t rows, int64_t n, int is_log, double *line,
                     int engine) {
  PICK(engine, softmax_back)(grad, y, gx, rows, n, is_log, line);
}

/* out[index[i]] += rows[i] in the order of i; out is float64. */
void ht_add_rows(const float *rows, const int64_t *index, double *out, int64_t n, int64_t width) {
  for (int64_t i = 0; i < n; i++) {
    if (index[i] < 0) continue;
    double *to = out + index[i] * width;
    const float *from = rows + i * width;
    for (int64_t j = 0; j < width; j++) to[j] += (double)from[j];
  }
}

/* Copy n pieces of memory end to end into `row`, and then write `starts` over those that differ: bytes, whatever they mean.
 * All are read before one is written, since pieces may be the same memory; one that is as it was may be read-only. */
void ht_take_and_reset(int64_t n, void *const *pieces, const void *const *starts, const int64_t *sizes, char *row) {
  for (int64_t i = 0; i < n; i++) {
    memcpy(row, pieces[i], (size_t)sizes[i]);
    row += sizes[i];
  }
  for (int64_t i = n - 1; i >= 0; i--) {
    row -= sizes[i];
    if (memcmp(row, starts[i], (size_t)sizes[i])) memcpy(pieces[i], starts[i], (size_t)sizes[i]);
  }
}

#include "_product.h"
#include "_recurrent.h"
