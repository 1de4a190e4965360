/* Included by _kernels.c once for each instruction set; ISA and FN name the copy. The compiler may use vectors of any
 * width: no operation is reordered and none is contracted, so the bits are those of the plain loops below. */

/* ---- sums -------------------------------------------------------------------------------------------------------
 * The order of a sum over n values: blocks of 4096; in a block, lane l of 64 adds its values l, l+64, l+128, ... in
 * that order, from +0.0; the lanes are folded by halves (l and l+32, then l and l+16, ...). The block sums are summed
 * by the same rule until one is left. All in float64. */
#define LANES 64
#define BLOCK 4096

static inline double FN(fold)(double *lane) {
  for (int half = LANES / 2; half; half /= 2)
    for (int l = 0; l < half; l++) lane[l] += lane[l + half];
  return lane[0];
}

#define ROW_SUM(NAME, TYPE)                                                            \
  static double FN(NAME)(const TYPE *x, int64_t n) {                                   \
    if (n > BLOCK) {                                                                   \
      int64_t blocks = (n + BLOCK - 1) / BLOCK;                                        \
      double *sums = malloc(sizeof(double) * blocks);                                  \
      for (int64_t b = 0; b < blocks; b++)                                             \
        sums[b] = FN(NAME)(x + b * BLOCK, n - b * BLOCK < BLOCK ? n - b * BLOCK : BLOCK); \
      double total = FN(row_f64)(sums, blocks);                                        \
      free(sums);                                                                      \
      return total;                                                                    \
    }                                                                                  \
    double lane[LANES] __attribute__((aligned(64))) = {0};                             \
    int64_t k = 0;                                                                     \
    for (; k + LANES <= n; k += LANES)                                                 \
      for (int l = 0; l < LANES; l++) lane[l] += (double)x[k + l];                     \
    for (int64_t l = 0; k + l < n; l++) lane[l] += (double)x[k + l];                   \
    return FN(fold)(lane);                                                             \
  }
static double FN(row_f64)(const double *x, int64_t n);
ROW_SUM(row_f64, double)
ROW_SUM(row_f32, float)

/* The same for columns: `width` of them side by side (at most COLUMNS), `stride` values from row to row. */
#define COLUMNS 16
#define COLUMN_SUM(NAME, TYPE)                                                                           \
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
    double lane[LANES][COLUMNS] __attribute__((aligned(64)));                                            \
    memset(lane, 0, sizeof lane);                                                                        \
    if (width == COLUMNS)                                                                                \
      for (int64_t k = 0; k < n; k++)                                                                    \
        for (int c = 0; c < COLUMNS; c++) lane[k % LANES][c] += (double)x[k * stride + c];               \
    else                                                                                                 \
      for (int64_t k = 0; k < n; k++)                                                                    \
        for (int64_t c = 0; c < width; c++) lane[k % LANES][c] += (double)x[k * stride + c];             \
    for (int half = LANES / 2; half; half /= 2)                                                          \
      for (int l = 0; l < half; l++)                                                                     \
        for (int c = 0; c < COLUMNS; c++) lane[l][c] += lane[l + half][c];                               \
    for (int64_t c = 0; c < width; c++) out[c] = lane[0][c];                                             \
  }
static void FN(columns_f64)(const double *x, double *out, int64_t n, int64_t stride, int64_t width);
COLUMN_SUM(columns_f64, double)
COLUMN_SUM(columns_f32, float)

#define SUM(NAME, TYPE, ROW, COLUMN)                                                                    \
  static void FN(NAME)(const TYPE *x, double *out, int64_t outer, int64_t n, int64_t inner) {           \
    if (inner == 1)                                                                                     \
      for (int64_t o = 0; o < outer; o++) out[o] = FN(ROW)(x + o * n, n);                               \
    else                                                                                                \
      for (int64_t o = 0; o < outer; o++)                                                               \
        for (int64_t c = 0; c < inner; c += COLUMNS)                                                    \
          FN(COLUMN)(x + o * n * inner + c, out + o * inner + c, n, inner,                              \
                     inner - c < COLUMNS ? inner - c : COLUMNS);                                        \
  }
SUM(sum_f32, float, row_f32, columns_f32)
SUM(sum_f64, double, row_f64, columns_f64)
#undef ROW_SUM
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

static int FN(function)(int which, const float *restrict x, float *restrict y, int64_t n) {
  switch (which) {
    case 0: EACH(FN(exp64));
    case 1: EACH(FN(log64));
    case 2: EACH(FN(tanh64));
    case 3: EACH(FN(sigmoid64));
    case 4: EACH(FN(erf64));
    case 5: EACH(FN(gelu64));
    case 6: EACH(FN(silu64));
    case 7: EACH(FN(rsqrt64));
    case 8: EACH(FN(sin64));
    case 9: EACH(FN(cos64));
    case 10: EACH(FN(log1p64));
    case 11: EACH(FN(expm164));
    case 12: EACH(FN(gelu_slope64));
    case 13: EACH(FN(silu_slope64));
    default: return 1;
  }
}
#undef EACH

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
