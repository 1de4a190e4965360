/* The product of 3, 4 or 6 digits with VNNI for K >= KARATSUBA (below: _short.h): digits cut in registers, tiles of C in the first
 * cache until they are rounded.
 *
 * C needs two integers of each element, top = 128 D_0 + D_1 and end = 128 D_2 + D_3 (with three digits end = D_2), where
 * D_d = sum over s + t = d of P_st, and P_st is the product of digits s of A and t of B; with six digits low = 128 D_4 + D_5 too.
 * For blocks of K of at most SHORT values (half of it with six digits) these are below 2^31, as |D_d| <= (d + 1) 2^12 K, so
 * sums modulo 2^32 are exact, whatever lies between.
 *
 * Fewer products do than there are pairs of digits (Karatsuba): with S_st the product of the digit sums (A_s + A_t) and (B_s + B_t),
 * P_st + P_ts = S_st - P_ss - P_tt, so that
 *   top = 127 P_00 - P_11 + S_01;   end = 128 (S_02 + P_11 - P_00 - P_22) + S_12 - P_11 - P_22 + P_03 + P_30:
 * eight products in place of ten; with three digits P_01 + P_10 alone: five in place of six; with six, whose D_4 has P_22 too,
 * eighteen in place of 21. A sum of two digits fits a
 * byte: a digit of 64 in magnitude behind another one is a tie, whose remainder is 0, or follows a digit 0 of at most 63 in
 * magnitude unless they have unlike signs. Digits 0 and 2 can both be 64: tiles with such a value make one or two products more, with S_01
 * alone (`with_sums` is 1 there, 2 with all sums).
 *
 * A lies in rows, [plane][row][k]; B in panels of NR columns, [plane][k / 4][column][4], with 64 added to each digit. */

#define MAX_PLANES 9
#define KARATSUBA 96 /* shortest K for which the sums of digits pay here */

/* Digits and sums of them. */
static inline int planes_of(int slices) { return slices + (slices > 3 ? 3 : 1); }
#define TOTALS MAX_SLICES /* sums of the digits of a row of A */

typedef struct {
  uint8_t *data;
  int64_t plane, stride; /* bytes from plane to plane, and from row to row (A) */
} Planes;

static inline __attribute__((always_inline)) AVX512 void transpose_words(__m512i *r) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]), r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]), r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    __m512i a = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88), b = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    __m512i c = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88), d = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    t[i] = _mm512_shuffle_i32x4(a, c, 0x88), t[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
    t[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88), t[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) r[i] = t[i];
}

/* The sums of the words of 16 vectors, in order. */
static inline __attribute__((always_inline)) AVX512 __m512i sum_words(const __m512i *r) {
  __m512i s[8], u[4];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++)
    s[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]), _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]));
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
    u[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(s[2 * i], s[2 * i + 1]), _mm512_unpackhi_epi64(s[2 * i], s[2 * i + 1]));
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++)
    s[i] = _mm512_add_epi32(_mm512_shuffle_i32x4(u[2 * i], u[2 * i + 1], 0x88), _mm512_shuffle_i32x4(u[2 * i], u[2 * i + 1], 0xdd));
  return _mm512_add_epi32(_mm512_shuffle_i32x4(s[0], s[1], 0x88), _mm512_shuffle_i32x4(s[0], s[1], 0xdd));
}

/* 1.5 * 2^(23 - 7 s), plus `offset` units of its last place: adding it leaves digit s (+ offset) in the low byte. */
static inline __attribute__((always_inline)) AVX512 __m512 magic(int s, int offset) {
  return _mm512_castsi512_ps(_mm512_set1_epi32((int)((uint32_t)(150 - 7 * s) << 23 | 0x400000u) + offset));
}

/* Digits of 16 numbers, in the low bytes of t[s]. */
static inline __attribute__((always_inline)) AVX512 void digits16(__m512 y, const int slices, const int offset, __m512i *t) {
#pragma GCC unroll 6
  for (int s = 0; s < slices; s++) {
    __m512 m = magic(s, offset), sum = _mm512_add_ps(y, m);
    t[s] = _mm512_castps_si512(sum);
    if (s + 1 < slices) y = _mm512_sub_ps(y, _mm512_sub_ps(sum, m));
  }
}

/* Adds the planes of digit sums to p[0..slices); the mask is not 0 where one does not fit. */
static inline __attribute__((always_inline)) AVX512 uint64_t digit_sums(__m512i *p, const int slices, const int offset) {
  if (slices < 4) {
    p[3] = _mm512_add_epi8(p[0], p[1]);
    return 0;
  }
  p[slices] = _mm512_add_epi8(p[0], p[1]), p[slices + 1] = _mm512_add_epi8(p[0], p[2]);
  p[slices + 2] = _mm512_add_epi8(p[1], p[2]);
  __m512i held = offset ? _mm512_adds_epu8(p[0], p[2]) : _mm512_adds_epi8(p[0], p[2]);
  return _mm512_cmpneq_epi8_mask(held, p[slices + 1]);
}

/* 64 values of one vector, of which n are there: digits in p[s], in order. */
static inline __attribute__((always_inline)) AVX512 void cut_along_of(const float *x, int n, float exponent, const int slices,
                                                                      const int offset, __m512i *p, const int parts) {
  __m128i byte[MAX_SLICES][4];
  __m512 e = _mm512_set1_ps(exponent);
#pragma GCC unroll 4
  for (int i = 0; i < parts; i++) {
    __m512i t[MAX_SLICES];
    int left = n - 16 * i;
    __m512 y = left >= 16 ? _mm512_loadu_ps(x + 16 * i)
                          : _mm512_maskz_loadu_ps(left > 0 ? (__mmask16)((1u << left) - 1) : 0, x + 16 * i);
    digits16(_mm512_scalef_ps(y, e), slices, offset, t);
#pragma GCC unroll 6
    for (int s = 0; s < slices; s++) byte[s][i] = _mm512_cvtepi32_epi8(t[s]);
  }
#pragma GCC unroll 6
  for (int s = 0; s < slices; s++) {
    __m512i z = _mm512_inserti32x4(_mm512_zextsi128_si512(byte[s][0]), byte[s][1], 1);
    p[s] = parts > 2 ? _mm512_inserti32x4(_mm512_inserti32x4(z, byte[s][2], 2), byte[s][3], 3) : z;
  }
}
static inline __attribute__((always_inline)) AVX512 void cut_along(const float *x, int n, float exponent, const int slices,
                                                                   const int offset, __m512i *p) {
  if (n > 32) cut_along_of(x, n, exponent, slices, offset, p, 4);
  else cut_along_of(x, n, exponent, slices, offset, p, 2);
}


/* Four values of each of 16 vectors that lie side by side: a word of digits for each vector in p[s]. */
static inline __attribute__((always_inline)) AVX512 void cut_across(const float *x, int64_t step, int n, __mmask16 there,
                                                                    __m512 e, const int slices, const int offset, __m512i *p) {
  __m512i t[4][MAX_SLICES];
#pragma GCC unroll 4
  for (int k = 0; k < 4; k++)
    digits16(_mm512_scalef_ps(_mm512_maskz_loadu_ps(k < n ? there : 0, x + k * step), e), slices, offset, t[k]);
  const __m512i low = _mm512_set1_epi32(0xff), half = _mm512_set1_epi32(0xffff);
#pragma GCC unroll 6
  for (int s = 0; s < slices; s++) { /* 0xca: first ? second : third, bit by bit */
    __m512i a = _mm512_ternarylogic_epi32(low, t[0][s], _mm512_slli_epi32(t[1][s], 8), 0xca);
    __m512i b = _mm512_ternarylogic_epi32(low, t[2][s], _mm512_slli_epi32(t[3][s], 8), 0xca);
    p[s] = _mm512_ternarylogic_epi32(half, a, _mm512_slli_epi32(b, 16), 0xca);
  }
}

/* Digits of up to 16 vectors over K values, as rows (A, with the sums of digits) or as half a panel (B). Not 0: a sum of digits
 * did not fit. `exponent` may be read beyond `vectors`, up to 16. */
static inline __attribute__((always_inline)) AVX512 uint64_t cut_group(Operand a, int64_t vectors, int64_t K,
                                                                       const int *exponent, Planes to, int32_t *total,
                                                                       const int is_a, const int slices) {
  const int offset = is_a ? 0 : 64, planes = planes_of(slices);
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i held[MAX_PLANES][GROUP], p[MAX_PLANES], along[GROUP][MAX_SLICES], across[MAX_SLICES];
  __mmask16 there = (__mmask16)((1u << vectors) - 1);
  float room[GROUP][64] __attribute__((aligned(64)));
  uint64_t misfit = 0;
  int is_across = a.across == 1;
  float e_of[GROUP];
  for (int v = 0; v < GROUP; v++) e_of[v] = (float)(6 - (v < vectors ? exponent[v] : 0));
  __m512 e = _mm512_loadu_ps(e_of);
  if (is_a) {
    for (int s = 0; s < slices; s++) across[s] = _mm512_setzero_si512();
    if (!is_across)
      for (int v = 0; v < GROUP; v++)
        for (int s = 0; s < slices; s++) along[v][s] = _mm512_setzero_si512();
  }
  for (int64_t k0 = 0; k0 < K; k0 += 64) {
    int n = K - k0 < 64 ? (int)(K - k0) : 64, words = (n + 3) / 4;
    const float *x = a.data + k0 * a.step;
    if (is_across) {
      for (int w = 0; w < words; w++) {
        cut_across(x + 4 * w * a.step, a.step, n - 4 * w, there, e, slices, offset, p);
        misfit |= digit_sums(p, slices, offset);
#pragma GCC unroll 9
        for (int s = 0; s < planes; s++) {
          if (is_a) held[s][w] = p[s];
          else _mm512_store_si512(to.data + s * to.plane + (k0 / 4 + w) * NR * 4, p[s]);
        }
        if (is_a)
          for (int s = 0; s < slices; s++) across[s] = _mm512_dpbusd_epi32(across[s], ones, p[s]);
      }
      if (!is_a) continue;
      for (int s = 0; s < planes; s++) {
        for (int w = words; w < GROUP; w++) held[s][w] = _mm512_setzero_si512();
        transpose_words(held[s]);
        for (int64_t v = 0; v < vectors; v++) _mm512_store_si512(to.data + s * to.plane + v * to.stride + k0, held[s][v]);
      }
      continue;
    }
    for (int64_t v = 0; v < vectors; v++) {
      const float *y = x + v * a.across;
      if (a.step != 1) {
        for (int k = 0; k < n; k++) room[v][k] = y[k * a.step];
        y = room[v];
      }
      cut_along(y, n, e_of[v], slices, offset, p);
      misfit |= digit_sums(p, slices, offset);
#pragma GCC unroll 9
      for (int s = 0; s < planes; s++) {
        if (is_a) _mm512_store_si512(to.data + s * to.plane + v * to.stride + k0, p[s]);
        else held[s][v] = p[s];
      }
      if (is_a)
        for (int s = 0; s < slices; s++) along[v][s] = _mm512_dpbusd_epi32(along[v][s], ones, p[s]);
    }
    if (is_a) continue;
    for (int s = 0; s < planes; s++) {
      for (int64_t v = vectors; v < GROUP; v++) held[s][v] = _mm512_setzero_si512();
      transpose_words(held[s]);
      for (int w = 0; w < words; w++) _mm512_store_si512(to.data + s * to.plane + (k0 / 4 + w) * NR * 4, held[s][w]);
    }
  }
  if (!is_a) return misfit;
  for (int s = 0; s < slices; s++) {
    if (!is_across) {
      for (int v = 0; v < GROUP; v++) held[0][v] = along[v][s];
      across[s] = sum_words(held[0]);
    }
    int32_t line[GROUP];
    _mm512_storeu_si512(line, across[s]);
    for (int64_t v = 0; v < vectors; v++) total[TOTALS * v + s] += line[v];
  }
  return misfit;
}

static AVX512 uint64_t cut_group_of(Operand a, int64_t vectors, int64_t K, const int *exponent, Planes to, int32_t *total,
                                    int is_a, int slices) {
#define CUT(IS_A, SLICES) \
  if (is_a == IS_A && slices == SLICES) return cut_group(a, vectors, K, exponent, to, total, IS_A, SLICES);
  CUT(1, 4) CUT(1, 6) CUT(1, 3) CUT(0, 4) CUT(0, 6)
#undef CUT
  return cut_group(a, vectors, K, exponent, to, total, 0, 3);
}

/* ---- tiles ---- */

/* Products of planes of A and B that are added. */
typedef struct {
  int8_t count, a[6], b[6];
} Pairs;

/* out = start * 2^shift + the products of planes, modulo 2^32: [row][NR]. */
static inline __attribute__((always_inline)) AVX512 void stage_of(Planes a, Planes b, const Pairs *pairs, int64_t k4,
                                                                  const int32_t *start, int shift, int32_t *out,
                                                                  const int rows, const int wide) {
  __m512i sum[MR][2];
  const __m128i by = _mm_cvtsi32_si128(shift);
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) {
    sum[r][0] = start ? _mm512_sll_epi32(_mm512_load_si512(start + r * NR), by) : _mm512_setzero_si512();
    if (wide) sum[r][1] = start ? _mm512_sll_epi32(_mm512_load_si512(start + r * NR + 16), by) : _mm512_setzero_si512();
  }
  for (int i = 0; i < pairs->count; i++) {
    const uint8_t *x = a.data + pairs->a[i] * a.plane, *y = b.data + pairs->b[i] * b.plane;
    for (int64_t k = 0; k < k4; k++, x += 4, y += NR * 4) add_words(x, a.stride, y, rows, wide, sum);
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) {
    _mm512_store_si512(out + r * NR, sum[r][0]);
    if (wide) _mm512_store_si512(out + r * NR + 16, sum[r][1]);
  }
}

#define STAGE(ROWS, WIDE)                                                                                             \
  static AVX512 __attribute__((noinline)) void stage_##ROWS##_##WIDE(Planes a, Planes b, const Pairs *pairs, int64_t k4, \
                                                                     const int32_t *start, int shift, int32_t *out) { \
    stage_of(a, b, pairs, k4, start, shift, out, ROWS, WIDE);                                                         \
  }
STAGE(12, 1) STAGE(8, 1) STAGE(4, 1) STAGE(12, 0) STAGE(8, 0) STAGE(4, 0)
#undef STAGE

static const Pairs P00 = {1, {0}, {0}}, P11 = {1, {1}, {1}}, P22 = {1, {2}, {2}};
static const Pairs ENDS_2 = {2, {0, 2}, {2, 0}};
static const Pairs CROSS_3 = {4, {0, 1, 2, 3}, {3, 2, 1, 0}}, CROSS_4 = {5, {0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}};
static const Pairs ENDS_4 = {4, {0, 1, 3, 4}, {4, 3, 1, 0}}, CROSS_5 = {6, {0, 1, 2, 3, 4, 5}, {5, 4, 3, 2, 1, 0}};
/* with 3, 4 and 6 digits */
static const Pairs S01[] = {{1, {3}, {3}}, {1, {4}, {4}}, {1, {6}, {6}}}, S02[] = {{0, {0}, {0}}, {1, {5}, {5}}, {1, {7}, {7}}};
static const Pairs S12_ENDS_3[] = {{0, {0}, {0}}, {3, {6, 0, 3}, {6, 3, 0}}, {3, {8, 0, 3}, {8, 3, 0}}};

/* top, end and low of a tile, with the 64s of B still in them; `room` holds three tiles. */
static AVX512 void tile_vnni(Planes a, Planes b, int64_t k4, int slices, int with_sums, int rows, int cols, int32_t *top,
                             int32_t *end, int32_t *low, int32_t *room) {
  int of = slices == 3 ? 0 : slices == 4 ? 1 : 2;
  void (*stage)(Planes, Planes, const Pairs *, int64_t, const int32_t *, int, int32_t *);
  if (cols > 16) stage = rows > 8 ? stage_12_1 : rows > 4 ? stage_8_1 : stage_4_1;
  else stage = rows > 8 ? stage_12_0 : rows > 4 ? stage_8_0 : stage_4_0;
  int32_t *p00 = room, *p11 = room + MR * NR, *p22 = room + 2 * MR * NR;
  stage(a, b, &P00, k4, NULL, 0, p00);
  stage(a, b, &P11, k4, NULL, 0, p11);
  for (int i = 0; i < rows * NR; i += 16) {
    __m512i first = _mm512_load_si512(p00 + i);
    first = _mm512_sub_epi32(_mm512_slli_epi32(first, 7), first);
    _mm512_store_si512(top + i, _mm512_sub_epi32(first, _mm512_load_si512(p11 + i)));
  }
  stage(a, b, &S01[of], k4, top, 0, top);
  if (slices == 3 || with_sums == 1) {
    stage(a, b, &ENDS_2, k4, p11, 0, end);
    if (slices > 3) stage(a, b, &CROSS_3, k4, end, 7, end);
    if (slices > 4) stage(a, b, &CROSS_4, k4, NULL, 0, low), stage(a, b, &CROSS_5, k4, low, 7, low);
    return;
  }
  stage(a, b, &P22, k4, NULL, 0, p22);
  for (int i = 0; i < rows * NR; i += 16) {
    __m512i less = _mm512_add_epi32(_mm512_load_si512(p00 + i), _mm512_load_si512(p22 + i));
    _mm512_store_si512(end + i, _mm512_sub_epi32(_mm512_load_si512(p11 + i), less));
  }
  stage(a, b, &S02[of], k4, end, 0, end);
  for (int i = 0; i < rows * NR; i += 16) {
    __m512i less = _mm512_add_epi32(_mm512_load_si512(p11 + i), _mm512_load_si512(p22 + i));
    _mm512_store_si512(end + i, _mm512_sub_epi32(_mm512_slli_epi32(_mm512_load_si512(end + i), 7), less));
  }
  stage(a, b, &S12_ENDS_3[of], k4, end, 0, end);
  if (slices > 4) stage(a, b, &ENDS_4, k4, p22, 0, low), stage(a, b, &CROSS_5, k4, low, 7, low);
}

/* The 64s of B in top, end and low of a row, from the sums of its digits: P_st has 64 sum_s more, S_st 128 (sum_s + sum_t). */
static inline void offsets_of(const int32_t *total, int slices, int with_sums, uint32_t *in) {
  uint32_t s[MAX_SLICES];
  for (int i = 0; i < MAX_SLICES; i++) s[i] = i < slices ? 64u * (uint32_t)total[i] : 0u;
  uint32_t three = s[0] + s[1] + s[2], four = three + s[3], five = four + s[4];
  in[0] = 127u * s[0] - s[1] + 2u * (s[0] + s[1]);
  if (slices == 3) in[1] = three;
  else if (with_sums < 2) in[1] = 128u * three + four;
  else in[1] = 128u * (2u * (s[0] + s[2]) + s[1] - s[0] - s[2]) + 2u * (s[1] + s[2]) - s[1] - s[2] + s[0] + s[3];
  in[2] = 129u * five + s[5];
}

static inline __attribute__((always_inline)) AVX512 __m512d half_of(__m512i x, const int upper) {
  return _mm512_cvtepi32_pd(upper ? _mm512_extracti32x8_epi32(x, 1) : _mm512_castsi512_si256(x));
}

/* What a tile's integers ([row][NR]: top, end, low) become: C, or with `part` more of the float64 sums of a longer K; the parts for
 * low come `apart` numbers behind. */
static inline __attribute__((always_inline)) AVX512 void finish_tile_of(const int32_t *sums[3], const int32_t *total,
                                                                        const int slices, int with_sums, int rows, int cols,
                                                                        const double *row_scale, const double *col_scale,
                                                                        double *part, int64_t apart, float *C, int64_t ldc) {
  const __m512d weight = _mm512_set1_pd(slices > 3 ? 16384.0 : 128.0);
  for (int r = 0; r < rows; r++) {
    uint32_t in[3];
    offsets_of(total + TOTALS * r, slices, with_sums, in);
    __m512d scale = _mm512_set1_pd(row_scale[r]), value[2];
    for (int c = 0; c < cols; c += 16) {
      __m512i x[3];
      for (int i = 0; i < (slices > 4 ? 3 : 2); i++)
        x[i] = _mm512_sub_epi32(_mm512_load_si512(sums[i] + r * NR + c), _mm512_set1_epi32((int)in[i]));
#pragma GCC unroll 2
      for (int h = 0; h < 2; h++) {
        double *to = part + r * NR + c + 8 * h;
        __m512d high = _mm512_add_pd(_mm512_mul_pd(half_of(x[0], h), weight), half_of(x[1], h)), low = high;
        if (slices > 4) low = half_of(x[2], h);
        if (part) {
          high = _mm512_add_pd(high, _mm512_load_pd(to));
          if (slices > 4) low = _mm512_add_pd(low, _mm512_load_pd(to + apart));
        }
        if (!C) {
          _mm512_store_pd(to, high);
          if (slices > 4) _mm512_store_pd(to + apart, low);
          continue;
        }
        if (slices > 4) high = _mm512_add_pd(_mm512_mul_pd(high, weight), low);
        value[h] = _mm512_mul_pd(_mm512_mul_pd(high, scale), _mm512_load_pd(col_scale + c + 8 * h));
      }
      if (!C) continue;
      __m512 both = _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(value[0])), _mm512_cvtpd_ps(value[1]), 1);
      int n = cols - c;
      _mm512_mask_storeu_ps(C + r * ldc + c, n < 16 ? (__mmask16)((1u << n) - 1) : 0xffff, both);
    }
  }
}
static AVX512 void finish_tile(const int32_t *sums[3], const int32_t *total, int slices, int with_sums, int rows, int cols,
                               const double *row_scale, const double *col_scale, double *part, int64_t apart, float *C,
                               int64_t ldc) {
  if (slices == 4) finish_tile_of(sums, total, 4, with_sums, rows, cols, row_scale, col_scale, part, apart, C, ldc);
  else if (slices == 3) finish_tile_of(sums, total, 3, with_sums, rows, cols, row_scale, col_scale, part, apart, C, ldc);
  else finish_tile_of(sums, total, 6, with_sums, rows, cols, row_scale, col_scale, part, apart, C, ldc);
}
