/* The matrix product, defined by integers (see _matmul.py for the definition and docs/design/0040).
 *
 * C[i,j] = sum over k of A[i,k] B[k,j]; each row of A and each column of B is a "vector" with a power-of-two scale,
 * and S digits per value, |q| <= 64, digit s of weight 2^-(6+7s).
 *
 * Overflow. A diagonal d adds d+1 <= 6 products of digits over at most PIECE = 65536 values: at most
 * 6 * 64 * 64 * 65536 = 1,610,612,736 < 2^31, so int32 holds it. The kernels multiply (q+64) in 0..128 by q: the sum
 * with the offset may wrap, and subtracting 64 * (sum of q) wraps back, exactly, modulo 2^32. In the AVX2 kernel a pair
 * is at most 2 * 128 * 64 = 16384 in magnitude, below the 32767 at which vpmaddubsw saturates.
 */
#define PIECE 65536
#define MR 12
#define NR 32
#define MAX_SLICES 6

typedef struct {
  const float *data;
  int64_t step, across; /* floats from k to k+1, and from vector to vector */
} Operand;

static inline uint32_t magnitude(float x) {
  uint32_t b;
  memcpy(&b, &x, 4);
  return b & 0x7fffffffu;
}

/* Largest magnitude of each vector. */
static void scan_max(Operand a, int64_t vectors, int64_t K, uint32_t *most) {
  memset(most, 0, sizeof(uint32_t) * vectors);
  if (a.across == 1 && a.step != 1) {
    for (int64_t k = 0; k < K; k++) {
      const float *row = a.data + k * a.step;
      for (int64_t v = 0; v < vectors; v++) {
        uint32_t m = magnitude(row[v]);
        most[v] = m > most[v] ? m : most[v];
      }
    }
    return;
  }
  for (int64_t v = 0; v < vectors; v++) {
    const float *row = a.data + v * a.across;
    uint32_t m = 0;
    if (a.step == 1)
      for (int64_t k = 0; k < K; k++) { uint32_t b = magnitude(row[k]); m = b > m ? b : m; }
    else
      for (int64_t k = 0; k < K; k++) { uint32_t b = magnitude(row[k * a.step]); m = b > m ? b : m; }
    most[v] = m;
  }
}

/* How many values of a vector are not zero, at least an eighth of the largest, and below 2^-8 of it. */
typedef struct {
  int32_t some, large, tiny;
} Spread;

#define LOOK(VALUE, AT)                \
  {                                    \
    float x = fabsf(VALUE);            \
    AT.large += x >= eighth[v];        \
    AT.tiny += x > 0.0f && x < low[v]; \
    AT.some += x > 0.0f;               \
  }
static void scan_spread(Operand a, int64_t vectors, int64_t K, const uint32_t *most, float *eighth, float *low, Spread *s) {
  for (int64_t v = 0; v < vectors; v++) {
    float m;
    memcpy(&m, &most[v], 4);
    eighth[v] = m * 0.125f, low[v] = m * 0.00390625f;
  }
  memset(s, 0, sizeof(Spread) * vectors);
  if (a.across == 1 && a.step != 1) {
    for (int64_t k = 0; k < K; k++)
      for (int64_t v = 0; v < vectors; v++) LOOK(a.data[k * a.step + v], s[v])
  } else if (a.step == 1) {
    for (int64_t v = 0; v < vectors; v++) {
      Spread one = {0, 0, 0};
      for (int64_t k = 0; k < K; k++) LOOK(a.data[v * a.across + k], one)
      s[v] = one;
    }
  } else {
    for (int64_t v = 0; v < vectors; v++)
      for (int64_t k = 0; k < K; k++) LOOK(a.data[v * a.across + k * a.step], s[v])
  }
}

/* e with largest < 2^e, and largest >= 2^(e-1); 0 for a vector of zeros. */
static inline int exponent_of(uint32_t bits) {
  float m;
  memcpy(&m, &bits, 4);
  double d = (double)m;
  int64_t b;
  memcpy(&b, &d, 8);
  return bits ? (int)((b >> 52) & 0x7ff) - 1022 : 0;
}

static inline float power_f32(int e) { /* 2^e, |e| <= 126 */
  uint32_t b = (uint32_t)(e + 127) << 23;
  float f;
  memcpy(&f, &b, 4);
  return f;
}
static inline double power_f64(int e) {
  int64_t b = (int64_t)(e + 1023) << 52;
  double f;
  memcpy(&f, &b, 8);
  return f;
}

/* Digits of P vectors side by side (P = MR or NR), K values: out[s][k/4][P][4]; `offset` is added to each digit.
 * Scaling in two steps keeps every factor a normal float32; a product that underflows has only zero digits. */
#define PACK(NAME, P, TARGET)                                                                                      \
  TARGET static void NAME(Operand a, int64_t vectors, int64_t K, const int *exponent, int slices, int offset,      \
                          uint8_t *out, int64_t slice_bytes, int32_t *sums) {                                      \
    float first[P], second[P];                                                                                     \
    int32_t total[MAX_SLICES][P];                                                                                  \
    memset(total, 0, sizeof total);                                                                                \
    for (int p = 0; p < P; p++) {                                                                                  \
      int e = p < vectors ? 6 - exponent[p] : 0, h = e / 2;                                                        \
      first[p] = power_f32(h), second[p] = power_f32(e - h);                                                       \
    }                                                                                                              \
    for (int64_t k0 = 0; k0 < K; k0 += 4) {                                                                        \
      float tile[4][P];                                                                                            \
      uint32_t word[MAX_SLICES][P];                                                                                \
      if (k0 + 4 > K || vectors < P) memset(tile, 0, sizeof tile);                                                 \
      int64_t rows = K - k0 < 4 ? K - k0 : 4;                                                                      \
      if (a.across == 1) {                                                                                         \
        for (int64_t k = 0; k < rows; k++)                                                                         \
          if (vectors == P) memcpy(tile[k], a.data + (k0 + k) * a.step, sizeof(float) * P);                        \
          else memcpy(tile[k], a.data + (k0 + k) * a.step, sizeof(float) * vectors);                               \
      } else if (rows == 4) {                                                                                      \
        for (int64_t v = 0; v < vectors; v++) {                                                                    \
          const float *from = a.data + v * a.across + k0 * a.step;                                                 \
          for (int k = 0; k < 4; k++) tile[k][v] = from[k * a.step];                                               \
        }                                                                                                          \
      } else {                                                                                                     \
        for (int64_t v = 0; v < vectors; v++)                                                                      \
          for (int64_t k = 0; k < rows; k++) tile[k][v] = a.data[v * a.across + (k0 + k) * a.step];                \
      }                                                                                                            \
      memset(word, 0, sizeof word);                                                                                \
      for (int k = 0; k < 4; k++) {                                                                                \
        float y[P];                                                                                                \
        for (int p = 0; p < P; p++) y[p] = tile[k][p] * first[p] * second[p];                                      \
        for (int s = 0; s < slices; s++)                                                                           \
          for (int p = 0; p < P; p++) {                                                                            \
            float q = (y[p] + 12582912.0f) - 12582912.0f; /* 1.5 * 2^23: to the nearest integer, ties to even */   \
            y[p] = (y[p] - q) * 128.0f;                                                                            \
            int32_t i = (int32_t)q;                                                                                \
            total[s][p] += i;                                                                                      \
            word[s][p] |= (uint32_t)((i + offset) & 255) << (8 * k);                                               \
          }                                                                                                        \
      }                                                                                                            \
      for (int s = 0; s < slices; s++) memcpy(out + s * slice_bytes + k0 * P, word[s], 4 * P);                     \
    }                                                                                                              \
    if (sums)                                                                                                      \
      for (int s = 0; s < slices; s++) memcpy(sums + s * P, total[s], sizeof(int32_t) * P);                        \
  }

/* One diagonal of one tile: acc[r][c] = sum over s of sum over k of A_s[r,k] * (B_{d-s}[k,c] + 64), modulo 2^32. */
static void diagonal_generic(const uint8_t *a, int64_t a_bytes, const uint8_t *b, int64_t b_bytes, int d, int64_t k4,
                             int rows, int cols, int32_t *acc) {
  for (int i = 0; i < MR * NR; i++) acc[i] = 0;
  for (int s = 0; s <= d; s++) {
    const int8_t *as = (const int8_t *)a + s * a_bytes;
    const uint8_t *bs = b + (d - s) * b_bytes;
    for (int64_t k = 0; k < k4; k++)
      for (int r = 0; r < rows; r++) {
        const int8_t *x = as + (k * MR + r) * 4;
        const uint8_t *y = bs + k * NR * 4;
        uint32_t *to = (uint32_t *)acc + r * NR;
        for (int c = 0; c < cols; c++)
          to[c] += (uint32_t)(x[0] * y[4 * c] + x[1] * y[4 * c + 1] + x[2] * y[4 * c + 2] + x[3] * y[4 * c + 3]);
      }
  }
}
PACK(pack_a_generic, MR, )
PACK(pack_b_generic, NR, )

#ifdef HT_X86
#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")))
PACK(pack_a_avx2, MR, AVX2)
PACK(pack_b_avx2, NR, AVX2)
PACK(pack_a_avx512, MR, AVX512)
PACK(pack_b_avx512, NR, AVX512)

static inline __attribute__((always_inline)) AVX2 void rows_avx2(const uint8_t *a, int64_t a_bytes, const uint8_t *b,
                                                                int64_t b_bytes, int d, int64_t k4, const int rows,
                                                                int32_t *acc) {
  __m256i sum[4][2];
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm256_setzero_si256();
  for (int s = 0; s <= d; s++) {
    const uint8_t *x = a + s * a_bytes, *y = b + (d - s) * b_bytes;
    for (int64_t k = 0; k < k4; k++, x += MR * 4, y += NR * 4) {
      __m256i y0 = _mm256_loadu_si256((const __m256i *)y), y1 = _mm256_loadu_si256((const __m256i *)(y + 32));
#pragma GCC unroll 4
      for (int r = 0; r < rows; r++) {
        int32_t four;
        memcpy(&four, x + 4 * r, 4);
        __m256i v = _mm256_set1_epi32(four);
        sum[r][0] = _mm256_add_epi32(sum[r][0], _mm256_madd_epi16(_mm256_maddubs_epi16(y0, v), ones));
        sum[r][1] = _mm256_add_epi32(sum[r][1], _mm256_madd_epi16(_mm256_maddubs_epi16(y1, v), ones));
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) {
    _mm256_storeu_si256((__m256i *)(acc + r * NR), sum[r][0]);
    _mm256_storeu_si256((__m256i *)(acc + r * NR + 8), sum[r][1]);
  }
}
static AVX2 void diagonal_avx2(const uint8_t *a, int64_t a_bytes, const uint8_t *b, int64_t b_bytes, int d, int64_t k4,
                               int rows, int cols, int32_t *acc) {
  for (int c = 0; c < cols; c += 16)
    for (int r = 0; r < rows; r += 4)
      rows_avx2(a + 4 * r, a_bytes, b + 4 * c, b_bytes, d, k4, 4, acc + r * NR + c);
}

static inline __attribute__((always_inline)) AVX512 void rows_vnni(const uint8_t *a, int64_t a_bytes, const uint8_t *b,
                                                                  int64_t b_bytes, int d, int64_t k4, const int rows,
                                                                  const int wide, int32_t *acc) {
  __m512i sum[MR][2];
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm512_setzero_si512();
  for (int s = 0; s <= d; s++) {
    const uint8_t *x = a + s * a_bytes, *y = b + (d - s) * b_bytes;
    for (int64_t k = 0; k < k4; k++, x += MR * 4, y += NR * 4) {
      __m512i y0 = _mm512_loadu_si512(y), y1 = wide ? _mm512_loadu_si512(y + 64) : y0;
#pragma GCC unroll 12
      for (int r = 0; r < rows; r++) {
        int32_t four;
        memcpy(&four, x + 4 * r, 4);
        __m512i v = _mm512_set1_epi32(four);
        sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], y0, v);
        if (wide) sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], y1, v);
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) {
    _mm512_storeu_si512(acc + r * NR, sum[r][0]);
    if (wide) _mm512_storeu_si512(acc + r * NR + 16, sum[r][1]);
  }
}
static AVX512 void diagonal_vnni(const uint8_t *a, int64_t a_bytes, const uint8_t *b, int64_t b_bytes, int d, int64_t k4,
                                 int rows, int cols, int32_t *acc) {
  if (cols > 16) {
    if (rows > 8) rows_vnni(a, a_bytes, b, b_bytes, d, k4, 12, 1, acc);
    else if (rows > 4) rows_vnni(a, a_bytes, b, b_bytes, d, k4, 8, 1, acc);
    else rows_vnni(a, a_bytes, b, b_bytes, d, k4, 4, 1, acc);
  } else {
    if (rows > 8) rows_vnni(a, a_bytes, b, b_bytes, d, k4, 12, 0, acc);
    else if (rows > 4) rows_vnni(a, a_bytes, b, b_bytes, d, k4, 8, 0, acc);
    else rows_vnni(a, a_bytes, b, b_bytes, d, k4, 4, 0, acc);
  }
}
#endif

/* high = high * 128 + (acc - 64 * sums); exact in float64: at most 53 bits, see _matmul.py. */
#define COMBINE(NAME, TARGET)                                                                                   \
  TARGET static void NAME(const int32_t *acc, const int32_t *correction, double *part, int rows) {              \
    for (int r = 0; r < rows; r++)                                                                              \
      for (int c = 0; c < NR; c++) {                                                                            \
        int32_t exact = (int32_t)((uint32_t)acc[r * NR + c] - (uint32_t)correction[r]);                         \
        part[r * NR + c] = part[r * NR + c] * 128.0 + (double)exact;                                            \
      }                                                                                                         \
  }                                                                                                             \
  TARGET static void NAME##_write(const double *high, const double *low, int with_low, const double *row_scale, \
                                  const double *col_scale, int rows, int cols, float *C, int64_t ldc) {         \
    for (int r = 0; r < rows; r++) {                                                                            \
      float line[NR];                                                                                           \
      for (int c = 0; c < NR; c++) {                                                                            \
        double whole = with_low ? high[r * NR + c] * 16384.0 + low[r * NR + c] : high[r * NR + c];              \
        line[c] = (float)(whole * row_scale[r] * col_scale[c]);                                                 \
      }                                                                                                         \
      memcpy(C + r * ldc, line, sizeof(float) * cols);                                                          \
    }                                                                                                           \
  }
COMBINE(combine_generic, )
#ifdef HT_X86
COMBINE(combine_avx2, AVX2)
COMBINE(combine_avx512, AVX512)
#define PICK2(engine, base) \
  ((engine) == ENGINE_VNNI ? base##_avx512 : (engine) == ENGINE_AVX2 ? base##_avx2 : base##_generic)
#define PICK_W(engine, base)                              \
  ((engine) == ENGINE_VNNI   ? base##_avx512_write        \
   : (engine) == ENGINE_AVX2 ? base##_avx2_write          \
                             : base##_generic_write)
#define PICK_DIAGONAL(engine) \
  ((engine) == ENGINE_VNNI ? diagonal_vnni : (engine) == ENGINE_AVX2 ? diagonal_avx2 : diagonal_generic)
#else
#define PICK2(engine, base) base##_generic
#define PICK_W(engine, base) base##_generic_write
#define PICK_DIAGONAL(engine) diagonal_generic
#endif

/* A's digits for one piece of K: panels of MR rows. */
static int64_t panels(int64_t vectors, int64_t width) { return (vectors + width - 1) / width; }

static int one_product(Operand a, Operand b, float *C, int64_t ldc, int64_t M, int64_t N, int64_t K, int slices,
                       const int *ea, const int *eb, int engine) {
  int64_t pieces = K ? panels(K, PIECE) : 1, longest = K < PIECE ? K : PIECE, k4 = (longest + 3) / 4;
  int64_t a_slice = k4 * MR * 4, b_slice = k4 * NR * 4, a_panel = a_slice * slices, b_panel = b_slice * slices;
  int64_t pm = panels(M, MR), pn = panels(N, NR);
  int kept = slices > 4 ? 2 : 1; /* float64 parts of a result: diagonals 0-3, and those beyond */
  uint8_t *A = aligned_alloc(64, (pm * a_panel + 63) / 64 * 64 + 64), *B = aligned_alloc(64, (b_panel + 63) / 64 * 64 + 64);
  int32_t *sums = malloc(sizeof(int32_t) * pm * MAX_SLICES * MR);
  double *totals = pieces > 1 ? calloc((size_t)pm * pn * MR * NR * kept, sizeof(double)) : NULL;
  if (!A || !B || !sums || (pieces > 1 && !totals)) {
    free(A), free(B), free(sums), free(totals);
    return -1;
  }
  double row_scale[MR], col_scale[NR];
  int bits = 6 + 6 + 7 * (slices - 1);
  for (int64_t piece = 0; piece < pieces; piece++) {
    int64_t k0 = piece * PIECE, kn = K - k0 < PIECE ? K - k0 : PIECE, steps = (kn + 3) / 4;
    for (int64_t p = 0; p < pm; p++) {
      Operand at = {a.data + p * MR * a.across + k0 * a.step, a.step, a.across};
      PICK2(engine, pack_a)(at, M - p * MR < MR ? M - p * MR : MR, kn, ea + p * MR, slices, 0, A + p * a_panel, a_slice,
                            sums + p * MAX_SLICES * MR);
    }
    for (int64_t q = 0; q < pn; q++) {
      int cols = N - q * NR < NR ? (int)(N - q * NR) : NR;
      Operand at = {b.data + q * NR * b.across + k0 * b.step, b.step, b.across};
      PICK2(engine, pack_b)(at, cols, kn, eb + q * NR, slices, 64, B, b_slice, NULL);
      for (int c = 0; c < NR; c++) col_scale[c] = c < cols ? power_f64(eb[q * NR + c]) : 0.0;
      for (int64_t p = 0; p < pm; p++) {
        int rows = M - p * MR < MR ? (int)(M - p * MR) : MR;
        int32_t acc[MR * NR] __attribute__((aligned(64))) = {0}, correction[MR] = {0};
        double part[2 * MR * NR] __attribute__((aligned(64))) = {0};
        for (int d = 0; d < slices; d++) {
          PICK_DIAGONAL(engine)(A + p * a_panel, a_slice, B, b_slice, d, steps, rows, cols, acc);
          for (int r = 0; r < MR; r++) correction[r] += 64 * sums[(p * MAX_SLICES + d) * MR + r];
          PICK2(engine, combine)(acc, correction, part + (d > 3) * MR * NR, rows);
        }
        double *high = part, *low = part + MR * NR;
        if (pieces > 1) {
          double *to = totals + (q * pm + p) * MR * NR * kept;
          for (int i = 0; i < MR * NR * kept; i++) to[i] += part[i];
          high = to, low = to + MR * NR;
        }
        if (piece + 1 < pieces) continue;
        for (int r = 0; r < MR; r++) row_scale[r] = r < rows ? power_f64(ea[p * MR + r] - bits) : 0.0;
        PICK_W(engine, combine)(high, low, kept - 1, row_scale, col_scale, rows, cols, C + p * MR * ldc + q * NR, ldc);
      }
    }
  }
  free(A), free(B), free(sums), free(totals);
  return 0;
}

/* What is known of the vectors of an operand before they are cut. */
typedef struct {
  int *exponent;
  int32_t *wide; /* 1 for a vector that asks for more digits */
  int64_t wides;
  uint32_t *most;
  float *bounds;
  Spread *spread;
} Scan;

static int scan_open(Scan *s, int64_t vectors) {
  s->exponent = malloc(sizeof(int) * (vectors + MR + NR)), s->wide = malloc(sizeof(int32_t) * (vectors + 1));
  s->most = malloc(sizeof(uint32_t) * (vectors + 1)), s->bounds = malloc(sizeof(float) * 2 * (vectors + 1));
  s->spread = malloc(sizeof(Spread) * (vectors + 1));
  return s->exponent && s->wide && s->most && s->bounds && s->spread ? 0 : -1;
}
static void scan_close(Scan *s) {
  free(s->exponent), free(s->wide), free(s->most), free(s->bounds), free(s->spread);
}

/* Exponents, and which vectors are wide; returns 1 if a value is not finite, else 0. */
static int scan_operand(Operand a, int64_t vectors, int64_t K, Scan *s) {
  int status = 0;
  scan_max(a, vectors, K, s->most);
  scan_spread(a, vectors, K, s->most, s->bounds, s->bounds + vectors, s->spread);
  s->wides = 0;
  for (int64_t v = 0; v < vectors; v++) {
    Spread at = s->spread[v];
    status |= s->most[v] >= 0x7f800000u;
    s->exponent[v] = exponent_of(s->most[v]);
    s->wide[v] = at.some && (8 * (int64_t)at.large <= at.some || 16 * (int64_t)at.tiny > at.some || at.some < 8);
    s->wides += s->wide[v];
  }
  return status;
}

/* Copies vectors, usual ones first, one after the other; `order` says which went where. */
static void sort_vectors(Operand a, int64_t vectors, int64_t K, const Scan *s, float *out, int64_t *order, int *exponent) {
  int64_t usual = 0, wide = vectors - s->wides;
  for (int64_t v = 0; v < vectors; v++) {
    int64_t at = s->wide[v] ? wide++ : usual++;
    const float *from = a.data + v * a.across;
    order[at] = v, exponent[at] = s->exponent[v];
    if (a.step == 1) memcpy(out + at * K, from, sizeof(float) * K);
    else
      for (int64_t k = 0; k < K; k++) out[at * K + k] = from[k * a.step];
  }
}

/* A product in which some vectors are wide: their elements with MAX_SLICES, the others with `slices`. */
static int mixed_product(Operand a, Operand b, float *C, int64_t M, int64_t N, int64_t K, int slices, const Scan *sa,
                         const Scan *sb, int engine) {
  if (sa->wides == M || sb->wides == N)
    return one_product(a, b, C, N, M, N, K, MAX_SLICES, sa->exponent, sb->exponent, engine);
  int64_t m = M - sa->wides, n = N - sb->wides, *order = malloc(sizeof(int64_t) * (M + N));
  float *rows = malloc(sizeof(float) * M * K), *columns = malloc(sizeof(float) * N * K), *D = malloc(sizeof(float) * M * N);
  int *ea = malloc(sizeof(int) * (M + N + MR + NR)), *eb = ea + M + MR, status = -1;
  if (order && rows && columns && D && ea) {
    sort_vectors(a, M, K, sa, rows, order, ea);
    sort_vectors(b, N, K, sb, columns, order + M, eb);
    Operand usual_a = {rows, 1, K}, wide_a = {rows + m * K, 1, K}, all_b = {columns, 1, K}, wide_b = {columns + n * K, 1, K};
    status = one_product(usual_a, all_b, D, N, m, n, K, slices, ea, eb, engine);
    if (!status && m < M) status = one_product(wide_a, all_b, D + m * N, N, M - m, N, K, MAX_SLICES, ea + m, eb, engine);
    if (!status && n < N) status = one_product(usual_a, wide_b, D + n, N, m, N - n, K, MAX_SLICES, ea, eb + n, engine);
    for (int64_t i = 0; i < M && !status; i++)
      for (int64_t j = 0; j < N; j++) C[order[i] * N + order[M + j]] = D[i * N + j];
  }
  free(order), free(rows), free(columns), free(D), free(ea);
  return status;
}

/* A batch of products; done[i] is 1 where all values are finite, and C[i] (M x N, contiguous) is written.
 * Where a value is not finite the caller has the rules. Returns -1 without memory, else 0. */
int ht_products(const float *a, int64_t a_step, int64_t a_across, int64_t a_batch, const float *b, int64_t b_step,
                int64_t b_across, int64_t b_batch, float *C, int64_t batch, int64_t M, int64_t N, int64_t K, int slices,
                int32_t *done, int engine) {
  Scan sa, sb;
  int status = scan_open(&sa, M) | scan_open(&sb, N), special_a = 0, special_b = 0;
  for (int64_t i = 0; i < batch && status >= 0; i++) {
    Operand x = {a + i * a_batch, a_step, a_across}, y = {b + i * b_batch, b_step, b_across};
    if (!i || a_batch) special_a = scan_operand(x, M, K, &sa);
    if (!i || b_batch) special_b = scan_operand(y, N, K, &sb);
    done[i] = !special_a && !special_b;
    if (!done[i]) continue;
    float *to = C + i * M * N;
    if (sa.wides || sb.wides) status = mixed_product(x, y, to, M, N, K, slices, &sa, &sb, engine);
    else status = one_product(x, y, to, N, M, N, K, slices, sa.exponent, sb.exponent, engine);
  }
  scan_close(&sa), scan_close(&sb);
  return status;
}

/* What one engine makes of a diagonal of digits: for the self-test at the bounds. a: [k][MR][4], b: [k][NR][4] + 64. */
void ht_diagonal(const uint8_t *a, const uint8_t *b, int64_t k4, int rows, int cols, int32_t *acc, int engine) {
  PICK_DIAGONAL(engine)(a, 0, b, 0, 0, k4, rows, cols, acc);
}
