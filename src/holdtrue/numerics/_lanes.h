/* Included by _kernels.c once for each instruction set; ISA and FN name the copy. The compiler may use vectors of any
 * width: no operation is reordered and none is contracted, so the bits are those of the plain loops below. */

/* ---- sums -------------------------------------------------------------------------------------------------------
 * The order of a sum over n values: blocks of 4096; in a block, lane l of 64 adds its values l, l+64, l+128, ... in
 * that order, from +0.0; the lanes are folded by halves (l and l+32, then l and l+16, ...). The block sums are summed
 * by the same rule until one is left. All in float64. */
#define LANES 64
#define BLOCK 4096

/* Vectors of the compiler: WIDTH numbers, eight of them at once. What runs beside each other is never reordered. */
#define TOGETHER 8
typedef double FN(doubles) __attribute__((vector_size(8 * WIDTH)));
typedef int64_t FN(longs) __attribute__((vector_size(8 * WIDTH)));
typedef float FN(floats) __attribute__((vector_size(4 * WIDTH)));

static inline __attribute__((always_inline)) FN(doubles) FN(take_f32)(const float *x) {
#if WIDTH == 8 /* one instruction, which GCC 12 does not find */
  return (FN(doubles))_mm512_cvtps_pd(_mm256_loadu_ps(x));
#elif WIDTH == 4
  return (FN(doubles))_mm256_cvtps_pd(_mm_loadu_ps(x));
#else
  FN(floats) y;
  memcpy(&y, x, sizeof y);
  return __builtin_convertvector(y, FN(doubles));
#endif
}
static inline __attribute__((always_inline)) FN(doubles) FN(take_f64)(const double *x) {
  FN(doubles) y;
  memcpy(&y, x, sizeof y);
  return y;
}

/* Whether all lanes fit TOGETHER vectors; then a sum stays in registers. */
#define ARE_IN_REGISTERS (TOGETHER * WIDTH == LANES)

/* sum + x where only so many values, if any, are left of x. A lane without one gets +0, which changes nothing: no sum that starts
 * from +0 is -0. */
static inline __attribute__((always_inline)) FN(doubles) FN(some_f64)(FN(doubles) sum, const double *x, int64_t left) {
#if WIDTH == 8
  __mmask8 there = left >= 8 ? 0xff : left > 0 ? (__mmask8)((1u << left) - 1) : 0;
  return sum + (FN(doubles))_mm512_maskz_loadu_pd(there, x);
#else
  (void)x, (void)left;
  return sum;
#endif
}

/* The lanes folded: those of `sum` where they are in registers, else those of `lane`. */
static inline double FN(fold)(FN(doubles) *sum, double *lane) {
  int half = LANES / 2;
#if WIDTH == 8
  sum[0] += sum[4], sum[1] += sum[5], sum[2] += sum[6], sum[3] += sum[7];
  sum[0] += sum[2], sum[1] += sum[3], sum[0] += sum[1];
  __m512d eight = (__m512d)sum[0];
  __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
  _mm_storeu_pd(lane, _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1)));
  half = 1;
#endif
  (void)sum;
  for (; half; half /= 2)
    for (int l = 0; l < half; l++) lane[l] += lane[l + half];
  return lane[0];
}

/* A sum of at most one block. */
#define BLOCK_SUM(NAME, TYPE, TAKE, SOME)                                                          \
  static inline __attribute__((always_inline)) double FN(NAME)(const TYPE *x, int64_t n) {         \
    double lane[LANES] __attribute__((aligned(64)));                                               \
    int64_t whole = n / LANES * LANES;                                                             \
    FN(doubles) sum[TOGETHER];                                                                     \
    for (int first = 0; first < LANES; first += TOGETHER * WIDTH) {                                \
      _Pragma("GCC unroll 8") for (int i = 0; i < TOGETHER; i++) sum[i] = (FN(doubles)){0};        \
      for (int64_t k = first; k < whole; k += LANES)                                               \
        _Pragma("GCC unroll 8") for (int i = 0; i < TOGETHER; i++) sum[i] += FN(TAKE)(x + k + i * WIDTH); \
      if (ARE_IN_REGISTERS) break;                                                                 \
      _Pragma("GCC unroll 8") for (int i = 0; i < TOGETHER; i++)                                   \
        memcpy(lane + first + i * WIDTH, &sum[i], sizeof sum[i]);                                  \
    }                                                                                              \
    if (ARE_IN_REGISTERS && whole < n)                                                             \
      _Pragma("GCC unroll 8") for (int i = 0; i < TOGETHER; i++)                                   \
        sum[i] = FN(SOME)(sum[i], x + whole + i * WIDTH, n - whole - i * WIDTH);                   \
    if (!ARE_IN_REGISTERS)                                                                         \
      for (int64_t l = 0; whole + l < n; l++) lane[l] += (double)x[whole + l];                     \
    return FN(fold)(sum, lane);                                                                    \
  }
BLOCK_SUM(row_f64_block, double, take_f64, some_f64)
#if WIDTH == 8
/* float32 by vectors of four float64: Zen 4 converts four at a time more than twice as fast as eight. The 64 lanes are in 16
 * registers; each adds what it always adds, in that order. */
#define EACH_QUAD _Pragma("GCC unroll 16") for (int i = 0; i < LANES / 4; i++)
#define HALVE(N) _Pragma("GCC unroll 8") for (int i = 0; i < N; i++) sum[i] = _mm256_add_pd(sum[i], sum[i + N]);
static inline __attribute__((always_inline)) __m256d FN(plus_quad)(__m256d sum, __m128 x) {
  /* x * 1 + sum, fused, is the same number as sum + x: the pipes that multiply are free, while on Zen 4 those that add have the
   * conversions too. The form without a mask belongs to `fma`, which is in no target. */
  return _mm256_mask3_fmadd_pd(_mm256_cvtps_pd(x), _mm256_set1_pd(1.0), sum, 15);
}
static inline __attribute__((always_inline)) double FN(row_f32_block)(const float *x, int64_t n) {
  int64_t whole = n / LANES * LANES, rest = n - whole;
  __mmask8 last = (__mmask8)((1u << (rest & 3)) - 1); /* a lane without a value gets +0: no sum that starts from +0 is -0 */
  __m256d sum[LANES / 4];
  EACH_QUAD sum[i] = _mm256_setzero_pd();
  for (int64_t k = 0; k < whole; k += LANES) EACH_QUAD sum[i] = FN(plus_quad)(sum[i], _mm_loadu_ps(x + k + 4 * i));
  if (rest) {
    EACH_QUAD {
      const float *from = x + whole + 4 * i;
      if (4 * i + 3 < rest) sum[i] = FN(plus_quad)(sum[i], _mm_loadu_ps(from));
      else if (4 * i < rest) sum[i] = FN(plus_quad)(sum[i], _mm_maskz_loadu_ps(last, from));
    }
  }
  HALVE(8) HALVE(4) HALVE(2) HALVE(1)
  __m128d two = _mm_add_pd(_mm256_castpd256_pd128(sum[0]), _mm256_extractf128_pd(sum[0], 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
#undef EACH_QUAD
#undef HALVE
#else
static inline FN(doubles) FN(some_f32)(FN(doubles) sum, const float *x, int64_t left) { return (void)x, (void)left, sum; }
BLOCK_SUM(row_f32_block, float, take_f32, some_f32)
#endif

/* A sum of any length. */
#define ROW_SUM(NAME, TYPE)                                                                        \
  static double FN(NAME)(const TYPE *x, int64_t n) {                                               \
    if (n <= BLOCK) return FN(NAME##_block)(x, n);                                                 \
    int64_t blocks = (n + BLOCK - 1) / BLOCK;                                                      \
    double *sums = malloc(sizeof(double) * blocks);                                                \
    for (int64_t b = 0; b < blocks; b++)                                                           \
      sums[b] = FN(NAME##_block)(x + b * BLOCK, n - b * BLOCK < BLOCK ? n - b * BLOCK : BLOCK);    \
    double total = FN(row_f64)(sums, blocks);                                                      \
    free(sums);                                                                                    \
    return total;                                                                                  \
  }
static double FN(row_f64)(const double *x, int64_t n);
ROW_SUM(row_f64, double)
ROW_SUM(row_f32, float)

/* The same for columns: `width` of them side by side (at most COLUMNS), `stride` values from row to row. A lane is summed whole,
 * and lanes come in the order in which folding needs them (their numbers' bits reversed), so that at most one sum of each
 * level waits for its partner. A lane without values is +0, and adding it changes nothing: no sum that starts from +0 is -0. */
#define COLUMNS (TOGETHER * WIDTH)
#define COLUMN_SUM(NAME, TYPE, TAKE)                                                                     \
  static void FN(NAME)(const TYPE *x, double *out, int64_t n, int64_t stride, int64_t width) {           \
    if (n > BLOCK) {                                                                                     \
      int64_t blocks = (n + BLOCK - 1) / BLOCK;                                                          \
      double *sums = malloc(sizeof(double) * blocks * width);                                            \
      for (int64_t b = 0; b < blocks; b++)                                                               \
        FN(NAME)(x + b * BLOCK * stride, sums + b * width, n - b * BLOCK < BLOCK ? n - b * BLOCK : BLOCK, \
                 stride, width);                                                                         \
      FN(columns_f64)(sums, out, blocks, width, width);                                                  \
      free(sums);                                                                                        \
      return;                                                                                            \
    }                                                                                                    \
    double waiting[7][COLUMNS] __attribute__((aligned(64)));                                             \
    int has_values[7];                                                                                   \
    for (int i = 0; i < LANES; i++) {                                                                    \
      int lane = (i & 1) << 5 | (i & 2) << 3 | (i & 4) << 1 | (i & 8) >> 1 | (i & 16) >> 3 | (i & 32) >> 5; \
      int level = 0, is_there = lane < n;                                                                \
      double tail[COLUMNS] __attribute__((aligned(64))) = {0};                                           \
      FN(doubles) sum[TOGETHER];                                                                         \
      if (is_there && width < COLUMNS)                                                                   \
        for (int64_t k = lane; k < n; k += LANES)                                                        \
          for (int64_t c = 0; c < width; c++) tail[c] += (double)x[k * stride + c];                      \
      _Pragma("GCC unroll 8") for (int c = 0; c < TOGETHER; c++)                                         \
        memcpy(&sum[c], tail + c * WIDTH, sizeof sum[c]);                                                \
      if (is_there && width == COLUMNS)                                                                  \
        for (int64_t k = lane; k < n; k += LANES)                                                        \
          _Pragma("GCC unroll 8") for (int c = 0; c < TOGETHER; c++)                                     \
            sum[c] += FN(TAKE)(x + k * stride + c * WIDTH);                                              \
      for (int at = i; at & 1; at >>= 1, level++) {                                                      \
        _Pragma("GCC unroll 8") for (int c = 0; c < TOGETHER; c++) {                                     \
          FN(doubles) before;                                                                            \
          memcpy(&before, waiting[level] + c * WIDTH, sizeof before);                                    \
          sum[c] = is_there ? before + sum[c] : before;                                                  \
        }                                                                                                \
        is_there = is_there || has_values[level];                                                        \
      }                                                                                                  \
      has_values[level] = is_there;                                                                      \
      _Pragma("GCC unroll 8") for (int c = 0; c < TOGETHER; c++)                                         \
        memcpy(waiting[level] + c * WIDTH, &sum[c], sizeof sum[c]);                                      \
    }                                                                                                    \
    memcpy(out, waiting[6], sizeof(double) * width);                                                     \
  }
static void FN(columns_f64)(const double *x, double *out, int64_t n, int64_t stride, int64_t width);
COLUMN_SUM(columns_f64, double, take_f64)
COLUMN_SUM(columns_f32, float, take_f32)

#define SUM(NAME, TYPE, ROW, COLUMN)                                                                    \
  static void FN(NAME)(const TYPE *x, double *out, int64_t outer, int64_t n, int64_t inner) {           \
    if (inner == 1 && n <= BLOCK)                                                                       \
      for (int64_t o = 0; o < outer; o++) out[o] = FN(ROW##_block)(x + o * n, n);                       \
    else if (inner == 1)                                                                                \
      for (int64_t o = 0; o < outer; o++) out[o] = FN(ROW)(x + o * n, n);                               \
    else                                                                                                \
      for (int64_t o = 0; o < outer; o++)                                                               \
        for (int64_t c = 0; c < inner; c += COLUMNS)                                                    \
          FN(COLUMN)(x + o * n * inner + c, out + o * inner + c, n, inner,                              \
                     inner - c < COLUMNS ? inner - c : COLUMNS);                                        \
  }
SUM(sum_f32, float, row_f32, columns_f32)
SUM(sum_f64, double, row_f64, columns_f64)
#undef COLUMNS
#undef TOGETHER
#undef ROW_SUM
#undef BLOCK_SUM
#undef ARE_IN_REGISTERS
#undef COLUMN_SUM
#undef SUM

/* ---- functions: float32 in and out, float64 between; add, subtract, multiply, divide, bits ---- */
static inline double FN(from_bits)(int64_t b) {
  double d;
  memcpy(&d, &b, 8);
  return d;
}
static inline int64_t FN(to_bits)(double d) {
  int64_t b;
  memcpy(&b, &d, 8);
  return b;
}
#include "_functions.h"

#define EACH(CORE) \
  for (int64_t i = 0; i < n; i++) y[i] = (float)CORE((double)x[i]); \
  return 0

/* The same for a function of an exponential, CUT numbers at a time. */
#define WITH_EXP(NAME, ARGUMENT, REST)                                                        \
  static void FN(NAME)(const float *restrict x, float *restrict y, int64_t n) {               \
    double u[CUT] __attribute__((aligned(64))), e[CUT] __attribute__((aligned(64)));          \
    float line[CUT] = {0};                                                                    \
    for (int64_t at = 0; at < n; at += CUT) {                                                 \
      int is_whole = n - at >= CUT;                                                           \
      const float *from = is_whole ? x + at : line;                                           \
      float *to = is_whole ? y + at : line;                                                   \
      if (!is_whole) memcpy(line, x + at, sizeof(float) * (size_t)(n - at));                  \
      for (int i = 0; i < CUT; i += WIDTH) {                                                  \
        FN(doubles) v = FN(take_f32)(from + i);                                               \
        memcpy(u + i, &v, sizeof v);                                                          \
      }                                                                                       \
      for (int i = 0; i < CUT; i++) e[i] = FN(ARGUMENT)(u[i]);                                \
      FN(exp_many)(e);                                                                        \
      for (int i = 0; i < CUT; i++) to[i] = (float)FN(REST)(u[i], e[i]);                      \
      if (!is_whole) memcpy(y + at, line, sizeof(float) * (size_t)(n - at));                  \
    }                                                                                         \
  }
WITH_EXP(exp_f32, itself, exp_of)
WITH_EXP(tanh_f32, tanh_argument, tanh_of)
WITH_EXP(sigmoid_f32, minus, sigmoid_of)
WITH_EXP(silu_f32, minus, silu_of)
WITH_EXP(silu_slope_f32, minus, silu_slope_of)
#undef WITH_EXP

static int FN(function)(int which, const float *restrict x, float *restrict y, int64_t n) {
  switch (which) {
    case 0: FN(exp_f32)(x, y, n); return 0;
    case 1: EACH(FN(log64));
    case 2: FN(tanh_f32)(x, y, n); return 0;
    case 3: FN(sigmoid_f32)(x, y, n); return 0;
    case 4: EACH(FN(erf64));
    case 5: EACH(FN(gelu64));
    case 6: FN(silu_f32)(x, y, n); return 0;
    case 7: EACH(FN(rsqrt64));
    case 8: EACH(FN(sin64));
    case 9: EACH(FN(cos64));
    case 10: EACH(FN(log1p64));
    case 11: EACH(FN(expm164));
    case 12: EACH(FN(gelu_slope64));
    case 13: FN(silu_slope_f32)(x, y, n); return 0;
    default: return 1;
  }
}
#undef EACH
#undef CUT

/* ---- Philox4x32-10 (Salmon and others, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011) ---- */
static void FN(philox)(uint64_t key, uint64_t call, int64_t first, int64_t blocks, uint32_t *restrict out) {
  for (int64_t b = 0; b < blocks; b++) {
    uint64_t at = (uint64_t)(first + b);
    uint32_t c0 = (uint32_t)at, c1 = (uint32_t)(at >> 32), c2 = (uint32_t)call, c3 = (uint32_t)(call >> 32);
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
      uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
      uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
      c1 = (uint32_t)p1, c3 = (uint32_t)p0, c0 = n0, c2 = n2;
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    out[4 * b] = c0, out[4 * b + 1] = c1, out[4 * b + 2] = c2, out[4 * b + 3] = c3;
  }
}
