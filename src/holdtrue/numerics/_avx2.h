/* Products of digits with AVX2 for K <= PIECE. Digits are int16, and of B two of them at once: vpmaddwd multiplies a digit of A with
 * 128 times one of B and the one behind it, and adds two such products to int32.
 *
 * With B_t' = 128 B_(t-1) + B_t and B_0' = B_0, the sum over s <= d of A_s B_(d-s)' is 128 D_(d-1) + D_d (see _vnni.h for D and P): six
 * products for the ten of four digits, four for the six of three, whose D_0 stays alone, twelve for the 21 of six. No sum saturates, and
 * no 64 is added.
 *
 * Overflow. |B_t'| <= 64 * 128 + 64 fits int16, and two products int32. |D_d| <= (d + 1) 2^12 K, so with K <= SHORT
 * |128 D_2 + D_3| <= 388 * 2^22 < 2^31, and so with six digits over half of that |128 D_4 + D_5| <= 646 * 2^21 < 2^31. Longer K goes by blocks
 * of so many values, which are added in float64, exactly (see _matmul.py).
 *
 * Both operands lie in groups of eight vectors, [group][plane][k / 2][vector][2]. */

#define EIGHT 8               /* vectors of a group */
#define WORD (4 * EIGHT)      /* bytes of two digits of each */
#define CHUNK_B (512 << 10)   /* bytes of digits of B between which A's are gone over */
#define MOST_ROWS 1024        /* of A whose digits are there at once */
#define FEWEST_ROWS 64        /* for fewer, cutting B again would cost too much */
#define MOST_TOTALS (1 << 20) /* float64 that wait for the next block of K */

static inline __attribute__((always_inline)) AVX2 void transpose_eight(__m256 x[8]) {
  __m256 y[8], z[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) y[i] = _mm256_unpacklo_ps(x[i], x[i + 1]), y[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    z[i] = _mm256_shuffle_ps(y[i], y[i + 2], 0x44), z[i + 1] = _mm256_shuffle_ps(y[i], y[i + 2], 0xee);
    z[i + 2] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0x44), z[i + 3] = _mm256_shuffle_ps(y[i + 1], y[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
    x[i] = _mm256_permute2f128_ps(z[i], z[i + 4], 0x20), x[i + 4] = _mm256_permute2f128_ps(z[i], z[i + 4], 0x31);
}

/* Lanes of which n are there. */
static inline AVX2 __m256i first_lanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* Values k to k + 7 of up to eight vectors side by side, 0 where there are none. */
static inline __attribute__((always_inline)) AVX2 void take_eight(Operand a, int64_t n, int64_t k, int64_t K, __m256 x[8]) {
  int64_t left = K - k < 8 ? K - k : 8;
  const float *from = a.data + k * a.step;
  if (a.across == 1) {
    __m256i there = first_lanes(n);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) x[i] = i < left ? _mm256_maskload_ps(from + i * a.step, there) : _mm256_setzero_ps();
  } else if (a.step == 1) {
    __m256i there = first_lanes(left);
#pragma GCC unroll 8
    for (int v = 0; v < 8; v++) x[v] = v < n ? _mm256_maskload_ps(from + v * a.across, there) : _mm256_setzero_ps();
    transpose_eight(x);
  } else {
    float line[8][8] = {{0}};
    for (int i = 0; i < left; i++)
      for (int64_t v = 0; v < n; v++) line[i][v] = from[i * a.step + v * a.across];
    for (int i = 0; i < 8; i++) x[i] = _mm256_loadu_ps(line[i]);
  }
}

/* Planes of digits of up to eight vectors; of B each with the one before. Adding 1.5 * 2^23 rounds as in _digits.h. */
static inline __attribute__((always_inline)) AVX2 void cut_eight_of(Operand a, int64_t n, int64_t K, const int *exponent,
                                                                   uint8_t *to, int64_t plane, const int slices,
                                                                   const int is_b) {
  const __m256 magic = _mm256_set1_ps(12582912.0f), more = _mm256_set1_ps(128.0f);
  float by[2][EIGHT] = {{0}};
  for (int v = 0; v < n; v++) { /* in two steps every factor is a normal float32 */
    int e = 6 - exponent[v], h = e / 2;
    by[0][v] = power_f32(h), by[1][v] = power_f32(e - h);
  }
  const __m256 first = _mm256_loadu_ps(by[0]), second = _mm256_loadu_ps(by[1]);
  for (int64_t k = 0; k < K; k += 8) {
    __m256 x[8];
    take_eight(a, n, k, K, x);
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      if (k + i >= K) break;
      __m256 y[2] = {_mm256_mul_ps(_mm256_mul_ps(x[i], first), second), _mm256_mul_ps(_mm256_mul_ps(x[i + 1], first), second)};
      __m256i before[2];
#pragma GCC unroll 6
      for (int s = 0; s < slices; s++) {
        __m256i digit[2], word[2];
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
          __m256 t = _mm256_add_ps(y[j], magic);
          y[j] = _mm256_mul_ps(_mm256_sub_ps(y[j], _mm256_sub_ps(t, magic)), more);
          digit[j] = word[j] = _mm256_castps_si256(t);
          if (is_b && s) word[j] = _mm256_add_epi32(_mm256_slli_epi32(before[j], 7), digit[j]);
          before[j] = digit[j];
        }
        __m256i both = _mm256_blend_epi16(word[0], _mm256_slli_epi32(word[1], 16), 0xaa);
        _mm256_storeu_si256((__m256i *)(to + s * plane + (k + i) / 2 * WORD), both);
      }
    }
  }
}
static AVX2 void cut_eight(Operand a, int64_t n, int64_t K, const int *exponent, uint8_t *to, int64_t plane, int slices, int is_b) {
#define CUT(SLICES)                                                       \
  if (slices == SLICES) {                                                 \
    if (is_b) cut_eight_of(a, n, K, exponent, to, plane, SLICES, 1);      \
    else cut_eight_of(a, n, K, exponent, to, plane, SLICES, 0);           \
  }
  CUT(3) CUT(4) CUT(6)
#undef CUT
}

/* ---- tiles of four rows and 16 columns ---- */

/* Digits, and where a tile's results belong. `totals` holds the sums of the blocks of K before this one, `low` those of digits five and six. */
typedef struct {
  const uint8_t *a, *b;
  int64_t plane, group; /* bytes from plane to plane, and from the first eight columns to the others */
  double *totals, *low;
  int64_t apart;        /* of both, from row to row */
  int is_first, is_last; /* block of K */
  const double *row_scale, *col_scale;
} Quad;

/* sum = 128 D_(d-1) + D_d, or D_0. */
static inline __attribute__((always_inline)) AVX2 void add_two_diagonals(const Quad *at, const int d, __m256i sum[4][2]) {
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) sum[r][0] = sum[r][1] = _mm256_setzero_si256();
#pragma GCC unroll 6
  for (int s = 0; s <= d; s++) {
    const uint8_t *x = at->a + s * at->plane, *y = at->b + (d - s) * at->plane, *z = y + at->group, *end = y + at->plane;
    for (; y < end; x += WORD, y += WORD, z += WORD) {
      __m256i left = _mm256_loadu_si256((const __m256i *)y), right = _mm256_loadu_si256((const __m256i *)z);
#pragma GCC unroll 4
      for (int r = 0; r < 4; r++) {
        int32_t two;
        memcpy(&two, x + 4 * r, 4);
        __m256i v = _mm256_set1_epi32(two);
        sum[r][0] = _mm256_add_epi32(sum[r][0], _mm256_madd_epi16(left, v));
        sum[r][1] = _mm256_add_epi32(sum[r][1], _mm256_madd_epi16(right, v));
      }
    }
  }
}

static inline AVX2 __m256d quarter(__m256i x, const int upper) {
  return _mm256_cvtepi32_pd(upper ? _mm256_extracti128_si256(x, 1) : _mm256_castsi256_si128(x));
}

static inline __attribute__((always_inline)) AVX2 void quad_of(const Quad *at, int rows, int cols, float *C, int64_t ldc,
                                                              const int slices) {
  const __m256d weight = _mm256_set1_pd(16384.0);
  __m256i top[4][2], end[4][2], low[4][2];
  add_two_diagonals(at, slices & 1 ? 0 : 1, top);
  add_two_diagonals(at, slices & 1 ? 2 : 3, end);
  if (slices > 4) add_two_diagonals(at, 5, low);
#pragma GCC unroll 4
  for (int r = 0; r < 4; r++) {
    if (r >= rows) break;
    const __m256d row = _mm256_set1_pd(at->row_scale[r]);
    float line[16], *to = cols < 16 ? line : C + r * ldc;
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) {
      __m256d high = _mm256_add_pd(_mm256_mul_pd(quarter(top[r][q / 2], q & 1), weight), quarter(end[r][q / 2], q & 1)), rest = high;
      if (slices > 4) rest = quarter(low[r][q / 2], q & 1);
      if (!at->is_first) high = _mm256_add_pd(high, _mm256_loadu_pd(at->totals + r * at->apart + 4 * q));
      if (!at->is_first && slices > 4) rest = _mm256_add_pd(rest, _mm256_loadu_pd(at->low + r * at->apart + 4 * q));
      if (!at->is_last) {
        _mm256_storeu_pd(at->totals + r * at->apart + 4 * q, high);
        if (slices > 4) _mm256_storeu_pd(at->low + r * at->apart + 4 * q, rest);
        continue;
      }
      if (slices > 4) high = _mm256_add_pd(_mm256_mul_pd(high, weight), rest);
      high = _mm256_mul_pd(_mm256_mul_pd(high, row), _mm256_loadu_pd(at->col_scale + 4 * q));
      _mm_storeu_ps(to + 4 * q, _mm256_cvtpd_ps(high));
    }
    if (to == line && at->is_last) memcpy(C + r * ldc, line, sizeof(float) * (size_t)cols);
  }
}
static AVX2 __attribute__((noinline)) void quad_avx2(const Quad *at, int slices, int rows, int cols, float *C, int64_t ldc) {
  if (slices == 4) quad_of(at, rows, cols, C, ldc, 4);
  else if (slices == 3) quad_of(at, rows, cols, C, ldc, 3);
  else quad_of(at, rows, cols, C, ldc, 6);
}

/* C = A B with 3, 4 or 6 digits, K <= PIECE. Rows go in parts whose digits and totals take little room. -1 without memory, else 0. */
static int product_avx2(Operand a, Operand b, float *C, int64_t ldc, int64_t M, int64_t N, int64_t K, int slices, const int *ea,
                        const int *eb, Room *room) {
  int64_t block = slices > 4 ? SHORT / 2 : SHORT, longest = K < block ? K : block, blocks = panels(K, block), bits = 12 + 7 * (slices - 1);
  int64_t group = slices * ((longest + 1) / 2 * WORD), all_b = 2 * panels(N, 16), apart = EIGHT * all_b;
  int64_t together = CHUNK_B / group & ~(int64_t)1, rows = MOST_ROWS, sums = blocks > 1 ? (slices > 4 ? 2 : 1) * apart : 0;
  if (together < 2) together = 2;
  if (together > all_b) together = all_b;
  while (rows > FEWEST_ROWS && rows * sums > MOST_TOTALS) rows /= 2;
  if (rows > panels(M, EIGHT) * EIGHT) rows = panels(M, EIGHT) * EIGHT;
  int keep_a = blocks == 1 && rows >= M, keep_b = blocks == 1 && together == all_b;
  char *place = room_of(room, (size_t)((rows / EIGHT + together) * group) + sizeof(double) * (size_t)(rows + apart + rows * sums));
  if (!place) return -1;
  uint8_t *B = (uint8_t *)place, *A = B + together * group;
  double *row_scale = (double *)(A + rows / EIGHT * group), *col_scale = row_scale + rows, *totals = col_scale + apart;
  for (int64_t j = 0; j < apart && !room->b_is_cut; j++) col_scale[j] = j < N ? power_f64(eb[j]) : 0.0;
  for (int64_t m = 0; m < M; m += rows) {
    int64_t here = M - m < rows ? M - m : rows;
    for (int64_t i = 0; i < here && !room->is_cut; i++) row_scale[i] = power_f64(ea[m + i] - (int)bits);
    for (int64_t piece = 0; piece < blocks; piece++) {
      int64_t k = piece * block, these = K - k < block ? K - k : block, plane = (these + 1) / 2 * WORD;
      for (int64_t r = 0; r < here && !room->is_cut; r += EIGHT) {
        Operand from = {a.data + (m + r) * a.across + k * a.step, a.step, a.across};
        cut_eight(from, here - r < EIGHT ? here - r : EIGHT, these, ea + m + r, A + r / EIGHT * group, plane, slices, 0);
      }
      for (int64_t q = 0; q < all_b; q += together) {
        int64_t last = q + together < all_b ? q + together : all_b;
        for (int64_t g = q; g < last && !room->b_is_cut; g++) {
          int64_t n = N - g * EIGHT < EIGHT ? N - g * EIGHT : EIGHT;
          Operand from = {b.data + g * EIGHT * b.across + k * b.step, b.step, b.across};
          cut_eight(from, n > 0 ? n : 0, these, eb + g * EIGHT, B + (g - q) * group, plane, slices, 1);
        }
        for (int64_t first = 0; first < here; first += EIGHT) {
          fetch_ahead(room->ahead, EIGHT), fetch_ahead(room->ahead + 1, EIGHT);
          for (int64_t g = q; g < last; g += 2) {
            int cols = N - g * EIGHT < 16 ? (int)(N - g * EIGHT) : 16;
            for (int64_t r = first; r < here && r < first + EIGHT; r += 4) {
              double *sum = totals + r * apart + g * EIGHT;
              Quad at = {A + r / EIGHT * group + r % EIGHT * 4, B + (g - q) * group, plane, group, sum, sum + rows * apart, apart,
                         !piece, piece + 1 == blocks, row_scale + r, col_scale + g * EIGHT};
              quad_avx2(&at, slices, here - r < 4 ? (int)(here - r) : 4, cols, C + (m + r) * ldc + g * EIGHT, ldc);
            }
          }
        }
      }
      room->b_is_cut = keep_b;
    }
  }
  room->is_cut = keep_a;
  return 0;
}
