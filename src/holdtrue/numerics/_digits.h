/* Included by _kernels.c once for each instruction set, as _lanes.h: scanning vectors, cutting them into digits, and
 * putting diagonals together. Loops have fixed lengths where it matters, so that they become vectors.
 *
 * Digits. Adding 1.5 * 2^23 to |y| < 2^22 rounds it to an integer, ties to even, and leaves that integer in the low bits
 * of the sum: its lowest byte is the digit modulo 256. */
#define MAGIC32 12582912.0f
#define MAGIC_BITS 0x4b400000u
#define CHUNK 32 /* values of one vector that are cut together */
#define SIDE 32 /* vectors that lie side by side and are looked at together */

static inline uint32_t FN(bits32)(float x) {
  uint32_t b;
  memcpy(&b, &x, 4);
  return b;
}

/* Largest magnitude of each vector, and how its values spread below it. */
static void FN(scan)(Operand a, int64_t vectors, int64_t K, uint32_t *most, Spread *spread) {
  if (a.step == 1 && a.across != 1) {
    for (int64_t v = 0; v < vectors; v++) {
      const float *x = a.data + v * a.across;
      uint32_t top = 0;
      for (int64_t k = 0; k < K; k++) {
        uint32_t b = FN(bits32)(x[k]) & 0x7fffffffu;
        top = b > top ? b : top;
      }
      float m;
      memcpy(&m, &top, 4);
      float eighth = m * 0.125f, low = m * 0.00390625f;
      int32_t some = 0, large = 0, small = 0;
      for (int64_t k = 0; k < K; k++) {
        float y = __builtin_fabsf(x[k]);
        some += y > 0.0f, large += y >= eighth, small += y < low;
      }
      most[v] = top;
      spread[v] = (Spread){some, large, small - (low > 0.0f ? (int32_t)K - some : 0)};
    }
    return;
  }
  for (int64_t v = 0; v < vectors; v += SIDE) {
    int64_t n = vectors - v < SIDE ? vectors - v : SIDE;
    int is_plain = n == SIDE && a.across == 1;
    const float *x = a.data + v * a.across;
    uint32_t top[SIDE] = {0};
    float line[SIDE] = {0}, eighth[SIDE], low[SIDE];
    int32_t some[SIDE] = {0}, large[SIDE] = {0}, small[SIDE] = {0};
    for (int64_t k = 0; k < K; k++) {
      const float *y = x + k * a.step;
      if (!is_plain) {
        for (int64_t c = 0; c < n; c++) line[c] = y[c * a.across];
        y = line;
      }
      for (int c = 0; c < SIDE; c++) {
        uint32_t b = FN(bits32)(y[c]) & 0x7fffffffu;
        top[c] = b > top[c] ? b : top[c];
      }
    }
    for (int c = 0; c < SIDE; c++) {
      float m;
      memcpy(&m, &top[c], 4);
      eighth[c] = m * 0.125f, low[c] = m * 0.00390625f;
    }
    for (int64_t k = 0; k < K; k++) {
      const float *y = x + k * a.step;
      if (!is_plain) {
        for (int64_t c = 0; c < n; c++) line[c] = y[c * a.across];
        y = line;
      }
      for (int c = 0; c < SIDE; c++) {
        float z = __builtin_fabsf(y[c]);
        some[c] += z > 0.0f, large[c] += z >= eighth[c], small[c] += z < low[c];
      }
    }
    for (int64_t c = 0; c < n; c++) {
      most[v + c] = top[c];
      spread[v + c] = (Spread){some[c], large[c], small[c] - (low[c] > 0.0f ? (int32_t)K - some[c] : 0)};
    }
  }
}

/* Digits of vectors whose values lie one after the other; P vectors side by side in out[s][k/4][P][4]. */
static void FN(cut_rows)(Operand a, int64_t vectors, int P, int64_t K, const int *exponent, int slices, int offset,
                         uint8_t *out, int64_t slice_bytes, int32_t *sums) {
  for (int64_t v = 0; v < vectors; v++) {
    int e = 6 - exponent[v], h = e / 2;
    float first = power_f32(h), second = power_f32(e - h); /* in two steps every factor is a normal float32 */
    int32_t total[MAX_SLICES] = {0};
    for (int64_t k0 = 0; k0 < K; k0 += CHUNK) {
      const float *x = a.data + v * a.across + k0;
      int64_t n = K - k0 < CHUNK ? K - k0 : CHUNK, words = (n + 3) / 4;
      float y[CHUNK] __attribute__((aligned(64)));
      uint8_t digit[CHUNK] __attribute__((aligned(64)));
      if (n == CHUNK)
        for (int i = 0; i < CHUNK; i++) y[i] = x[i] * first * second;
      else
        for (int i = 0; i < CHUNK; i++) y[i] = i < n ? x[i] * first * second : 0.0f;
      for (int s = 0; s < slices; s++) {
        for (int i = 0; i < CHUNK; i++) {
          float t = y[i] + MAGIC32;
          digit[i] = (uint8_t)(FN(bits32)(t) + (uint32_t)offset);
          y[i] = (y[i] - (t - MAGIC32)) * 128.0f;
        }
        if (sums)
          for (int i = 0; i < CHUNK; i++) total[s] += (int8_t)digit[i];
        uint8_t *to = out + s * slice_bytes + k0 * P + v * 4;
        for (int64_t w = 0; w < words; w++) memcpy(to + w * P * 4, digit + 4 * w, 4);
      }
    }
    if (sums)
      for (int s = 0; s < slices; s++) sums[s * P + v] = total[s];
  }
}

/* The same for vectors that lie side by side, or anyhow. W: P rounded up to whole vectors of the processor. */
#define CUT_COLUMNS(NAME, P, W, HAS_SUMS)                                                                                 \
  static inline __attribute__((always_inline)) void FN(NAME##_of)(Operand a, int64_t vectors, int64_t K,          \
                                                                  const int *exponent, const int slices,          \
                                                                  int offset, uint8_t *out, int64_t slice_bytes,  \
                                                                  int32_t *sums) {                                \
    float first[W] = {0}, second[W] = {0};                                                                        \
    int32_t total[MAX_SLICES][W];                                                                                 \
    memset(total, 0, sizeof total);                                                                               \
    for (int p = 0; p < vectors; p++) {                                                                           \
      int e = 6 - exponent[p], h = e / 2;                                                                         \
      first[p] = power_f32(h), second[p] = power_f32(e - h);                                                      \
    }                                                                                                             \
    for (int64_t k0 = 0; k0 < K; k0 += 4) {                                                                       \
      uint32_t word[MAX_SLICES][W] __attribute__((aligned(64)));                                                  \
      memset(word, 0, sizeof(uint32_t) * W * slices);                                                             \
      _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) {                                                       \
        float y[W] __attribute__((aligned(64))) = {0};                                                            \
        if (k0 + k < K) {                                                                                         \
          const float *x = a.data + (k0 + k) * a.step;                                                            \
          if (a.across == 1 && vectors == P) memcpy(y, x, sizeof(float) * P);                                     \
          else                                                                                                    \
            for (int64_t v = 0; v < vectors; v++) y[v] = x[v * a.across];                                         \
        }                                                                                                         \
        for (int p = 0; p < W; p++) y[p] = y[p] * first[p] * second[p];                                           \
        _Pragma("GCC unroll 6") for (int s = 0; s < slices; s++)                                                  \
          for (int p = 0; p < W; p++) {                                                                           \
            float t = y[p] + MAGIC32;                                                                             \
            uint32_t b = FN(bits32)(t);                                                                           \
            word[s][p] |= ((b + (uint32_t)offset) & 255u) << (8 * k);                                             \
            if (HAS_SUMS) total[s][p] += (int32_t)(b - MAGIC_BITS);                                                   \
            y[p] = (y[p] - (t - MAGIC32)) * 128.0f;                                                               \
          }                                                                                                       \
      }                                                                                                           \
      for (int s = 0; s < slices; s++) memcpy(out + s * slice_bytes + k0 * P, word[s], 4 * P);                    \
    }                                                                                                             \
    if (HAS_SUMS)                                                                                                 \
      for (int s = 0; s < slices; s++) memcpy(sums + s * P, total[s], sizeof(int32_t) * P);                       \
  }                                                                                                               \
  static void FN(NAME)(Operand a, int64_t vectors, int64_t K, const int *exponent, int slices, int offset,        \
                       uint8_t *out, int64_t slice_bytes, int32_t *sums) {                                        \
    if (a.step == 1 && a.across != 1)                                                                             \
      FN(cut_rows)(a, vectors, P, K, exponent, slices, offset, out, slice_bytes, sums);                           \
    else if (slices == 4) FN(NAME##_of)(a, vectors, K, exponent, 4, offset, out, slice_bytes, sums);              \
    else if (slices == 3) FN(NAME##_of)(a, vectors, K, exponent, 3, offset, out, slice_bytes, sums);              \
    else FN(NAME##_of)(a, vectors, K, exponent, 6, offset, out, slice_bytes, sums);                               \
  }
CUT_COLUMNS(cut_a, MR, 16, 1)
CUT_COLUMNS(cut_b, NR, 32, 0)
#undef CUT_COLUMNS

/* high = high * 128 + (acc - correction); exact in float64: at most 53 bits, see _matmul.py. */
static void FN(combine)(const int32_t *acc, const int32_t *correction, double *part, int rows) {
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < NR; c++) {
      int32_t exact = (int32_t)((uint32_t)acc[r * NR + c] - (uint32_t)correction[r]);
      part[r * NR + c] = part[r * NR + c] * 128.0 + (double)exact;
    }
}

static void FN(write)(const double *high, const double *low, int with_low, const double *row_scale, const double *col_scale,
                      int rows, int cols, float *C, int64_t ldc) {
  for (int r = 0; r < rows; r++) {
    float line[NR];
    if (with_low)
      for (int c = 0; c < NR; c++)
        line[c] = (float)((high[r * NR + c] * 16384.0 + low[r * NR + c]) * row_scale[r] * col_scale[c]);
    else
      for (int c = 0; c < NR; c++) line[c] = (float)(high[r * NR + c] * row_scale[r] * col_scale[c]);
    if (cols == NR) memcpy(C + r * ldc, line, sizeof line);
    else memcpy(C + r * ldc, line, sizeof(float) * cols);
  }
}
#undef MAGIC32
#undef MAGIC_BITS
#undef SIDE
#undef CHUNK
