/* The product of 3, 4 or 6 digits with VNNI: digits cut in registers, a tile of C summed and rounded without leaving them.
 *
 * C needs two integers of each element, top = 128 D_0 + D_1 and end = 128 D_2 + D_3 (with three digits end = D_2), where
 * D_d = sum over s + t = d of P_st, and P_st is the product of digits s of A and t of B; with six digits low = 128 D_4 + D_5 too.
 * For blocks of K of at most SHORT values (half of it with six digits) these are below 2^31, as |D_d| <= (d + 1) 2^12 K, so
 * sums modulo 2^32 are exact, whatever lies between.
 *
 * For long K fewer products do (Karatsuba): with S_st the product of the digit sums (A_s + A_t) and (B_s + B_t),
 * P_st + P_ts = S_st - P_ss - P_tt, so that
 *   top = 127 P_00 - P_11 + S_01;   end = 128 (S_02 + P_11 - P_00 - P_22) + S_12 - P_11 - P_22 + P_03 + P_30:
 * eight products in place of ten; with three digits P_01 + P_10 alone: five in place of six; with six, whose D_4 has P_22 too,
 * eighteen in place of 21. A sum of two digits fits a
 * byte: a digit of 64 in magnitude behind another one is a tie, whose remainder is 0, or follows a digit 0 of at most 63 in
 * magnitude unless they have unlike signs. Digits 0 and 2 can both be 64: tiles with such a value make one or two products more, with S_01
 * alone (`with_sums` is 1 there, 2 with all sums, 0 without).
 *
 * A lies in rows, [plane][row][k]; B in panels of NR columns, [plane][k / 4][column][4], with 64 added to each digit. */

#define MAX_PLANES 9
#define KARATSUBA 96 /* shortest K for which the sums of digits pay */
#define GROUP 16     /* vectors that are cut together */

/* Which planes there are. */
static inline int planes_of(int slices, int sums) { return slices + (!sums ? 0 : slices > 3 ? 3 : 1); }
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
                                                                       const int is_a, const int slices, const int with_sums) {
  const int offset = is_a ? 0 : 64, planes = planes_of(slices, with_sums);
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
        if (with_sums) misfit |= digit_sums(p, slices, offset);
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
      if (with_sums) misfit |= digit_sums(p, slices, offset);
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
                                    int is_a, int slices, int with_sums) {
  if (is_a) {
    if (slices == 4 && with_sums) return cut_group(a, vectors, K, exponent, to, total, 1, 4, 1);
    if (slices == 4) return cut_group(a, vectors, K, exponent, to, total, 1, 4, 0);
    if (slices == 6 && with_sums) return cut_group(a, vectors, K, exponent, to, total, 1, 6, 1);
    if (slices == 6) return cut_group(a, vectors, K, exponent, to, total, 1, 6, 0);
    if (with_sums) return cut_group(a, vectors, K, exponent, to, total, 1, 3, 1);
    return cut_group(a, vectors, K, exponent, to, total, 1, 3, 0);
  }
  if (slices == 4 && with_sums) return cut_group(a, vectors, K, exponent, to, total, 0, 4, 1);
  if (slices == 4) return cut_group(a, vectors, K, exponent, to, total, 0, 4, 0);
  if (slices == 6 && with_sums) return cut_group(a, vectors, K, exponent, to, total, 0, 6, 1);
  if (slices == 6) return cut_group(a, vectors, K, exponent, to, total, 0, 6, 0);
  if (with_sums) return cut_group(a, vectors, K, exponent, to, total, 0, 3, 1);
  return cut_group(a, vectors, K, exponent, to, total, 0, 3, 0);
}

/* ---- tiles ---- */

/* Products of planes of A and B that are added; before number `times_128` what is there is multiplied by 128. */
typedef struct {
  int8_t count, a[8], b[8], times_128;
} Pairs;

/* out = start * 2^shift + the products of planes, modulo 2^32: [row][NR]. */
static inline __attribute__((always_inline)) AVX512 void stage_of(Planes a, Planes b, const Pairs *pairs, int64_t k4,
                                                                  const int32_t *start, int shift, int32_t *out,
                                                                  const int rows, const int wide) {
  __m512i sum[MR][2];
  const int64_t S = a.stride;
  const __m128i by = _mm_cvtsi32_si128(shift);
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) {
    sum[r][0] = start ? _mm512_sll_epi32(_mm512_load_si512(start + r * NR), by) : _mm512_setzero_si512();
    if (wide) sum[r][1] = start ? _mm512_sll_epi32(_mm512_load_si512(start + r * NR + 16), by) : _mm512_setzero_si512();
  }
  for (int i = 0; i < pairs->count; i++) {
    if (i && i == pairs->times_128)
#pragma GCC unroll 12
      for (int r = 0; r < rows; r++) {
        sum[r][0] = _mm512_slli_epi32(sum[r][0], 7);
        if (wide) sum[r][1] = _mm512_slli_epi32(sum[r][1], 7);
      }
    const uint8_t *x = a.data + pairs->a[i] * a.plane, *y = b.data + pairs->b[i] * b.plane;
    for (int64_t k = 0; k < k4; k++, x += 4, y += NR * 4) {
      __m512i y0 = _mm512_load_si512(y), y1 = wide ? _mm512_load_si512(y + 64) : y0;
#pragma GCC unroll 12
      for (int r = 0; r < rows; r++) {
        int32_t four;
        memcpy(&four, x + r * S, 4);
        __m512i v = _mm512_set1_epi32(four);
        sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], y0, v);
        if (wide) sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], y1, v);
      }
    }
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

static const Pairs P00 = {1, {0}, {0}, 0}, P11 = {1, {1}, {1}, 0}, P22 = {1, {2}, {2}, 0};
static const Pairs TOP = {3, {0, 0, 1}, {0, 1, 0}, 1}, END = {7, {0, 1, 2, 0, 1, 2, 3}, {2, 1, 0, 3, 2, 1, 0}, 3};
static const Pairs CROSS_2 = {3, {0, 1, 2}, {2, 1, 0}, 0}, ENDS_2 = {2, {0, 2}, {2, 0}, 0};
static const Pairs CROSS_3 = {4, {0, 1, 2, 3}, {3, 2, 1, 0}, 0}, CROSS_4 = {5, {0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}, 0};
static const Pairs ENDS_4 = {4, {0, 1, 3, 4}, {4, 3, 1, 0}, 0}, CROSS_5 = {6, {0, 1, 2, 3, 4, 5}, {5, 4, 3, 2, 1, 0}, 0};
/* with 3, 4 and 6 digits */
static const Pairs S01[] = {{1, {3}, {3}, 0}, {1, {4}, {4}, 0}, {1, {6}, {6}, 0}}, S02[] = {{0, {0}, {0}, 0}, {1, {5}, {5}, 0}, {1, {7}, {7}, 0}};
static const Pairs S12_ENDS_3[] = {{0, {0}, {0}, 0}, {3, {6, 0, 3}, {6, 3, 0}, 0}, {3, {8, 0, 3}, {8, 3, 0}, 0}};

/* top, end and low of a tile, with the 64s of B still in them; `room` holds three tiles. */
static AVX512 void tile_vnni(Planes a, Planes b, int64_t k4, int slices, int with_sums, int rows, int cols, int32_t *top,
                             int32_t *end, int32_t *low, int32_t *room) {
  int of = slices == 3 ? 0 : slices == 4 ? 1 : 2;
  void (*stage)(Planes, Planes, const Pairs *, int64_t, const int32_t *, int, int32_t *);
  if (cols > 16) stage = rows > 8 ? stage_12_1 : rows > 4 ? stage_8_1 : stage_4_1;
  else stage = rows > 8 ? stage_12_0 : rows > 4 ? stage_8_0 : stage_4_0;
  if (!with_sums) {
    stage(a, b, &TOP, k4, NULL, 0, top);
    stage(a, b, slices > 3 ? &END : &CROSS_2, k4, NULL, 0, end);
    if (slices > 4) stage(a, b, &CROSS_4, k4, NULL, 0, low), stage(a, b, &CROSS_5, k4, low, 7, low);
    return;
  }
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
  in[0] = with_sums ? 127u * s[0] - s[1] + 2u * (s[0] + s[1]) : 129u * s[0] + s[1];
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

/* ---- scans ---- */

/* Largest magnitude of each vector, and how its values spread below it: as `scan` in _digits.h. */
static AVX512 void scan_along(Operand a, int64_t vectors, int64_t K, uint32_t *most, Spread *spread) {
  const __m512i size = _mm512_set1_epi32(0x7fffffff);
  int64_t whole = K / 16 * 16;
  __mmask16 rest = (__mmask16)((1u << (K - whole)) - 1);
  for (int64_t v = 0; v < vectors; v++) {
    const float *x = a.data + v * a.across;
    __m512i top = _mm512_and_si512(_mm512_castps_si512(_mm512_maskz_loadu_ps(rest, x + whole)), size), next = top;
    int64_t k = 0;
    for (; k + 32 <= whole; k += 32) {
      top = _mm512_max_epu32(top, _mm512_and_si512(_mm512_loadu_si512(x + k), size));
      next = _mm512_max_epu32(next, _mm512_and_si512(_mm512_loadu_si512(x + k + 16), size));
    }
    if (k < whole) top = _mm512_max_epu32(top, _mm512_and_si512(_mm512_loadu_si512(x + k), size));
    most[v] = _mm512_reduce_max_epu32(_mm512_max_epu32(top, next));
    float m;
    memcpy(&m, &most[v], 4);
    __m512 eighth = _mm512_set1_ps(m * 0.125f), low = _mm512_set1_ps(m * 0.00390625f), zero = _mm512_setzero_ps();
    int32_t some = 0, large = 0, small = 0;
    for (k = 0; k < K; k += 16) {
      __mmask16 there = k < whole ? 0xffff : rest;
      __m512 y = _mm512_abs_ps(_mm512_maskz_loadu_ps(there, x + k));
      some += __builtin_popcount(_mm512_cmp_ps_mask(y, zero, _CMP_GT_OQ));
      large += __builtin_popcount(_mm512_mask_cmp_ps_mask(there, y, eighth, _CMP_GE_OQ));
      small += __builtin_popcount(_mm512_mask_cmp_ps_mask(there, y, low, _CMP_LT_OQ));
    }
    spread[v] = (Spread){some, large, small - (m * 0.00390625f > 0.0f ? (int32_t)K - some : 0)};
  }
}

#define SCANNED 4 /* groups of vectors side by side that are looked at together */
static inline __attribute__((always_inline)) AVX512 void scan_groups(const float *x, int64_t step, int64_t vectors, int64_t K,
                                                                     uint32_t *most, Spread *spread, const int groups) {
  const __m512i size = _mm512_set1_epi32(0x7fffffff), one = _mm512_set1_epi32(1);
  __m512i top[SCANNED], some[SCANNED], large[SCANNED], small[SCANNED];
  __m512 eighth[SCANNED], low[SCANNED];
  __mmask16 there[SCANNED];
#pragma GCC unroll 4
  for (int g = 0; g < groups; g++) {
    int64_t left = vectors - 16 * g;
    there[g] = left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1);
    top[g] = some[g] = large[g] = small[g] = _mm512_setzero_si512();
  }
  for (int64_t k = 0; k < K; k++)
#pragma GCC unroll 4
    for (int g = 0; g < groups; g++) {
      __m512i y = _mm512_castps_si512(_mm512_maskz_loadu_ps(there[g], x + k * step + 16 * g));
      top[g] = _mm512_max_epu32(top[g], _mm512_and_si512(y, size));
    }
#pragma GCC unroll 4
  for (int g = 0; g < groups; g++) {
    eighth[g] = _mm512_mul_ps(_mm512_castsi512_ps(top[g]), _mm512_set1_ps(0.125f));
    low[g] = _mm512_mul_ps(_mm512_castsi512_ps(top[g]), _mm512_set1_ps(0.00390625f));
  }
  for (int64_t k = 0; k < K; k++)
#pragma GCC unroll 4
    for (int g = 0; g < groups; g++) {
      __m512 y = _mm512_abs_ps(_mm512_maskz_loadu_ps(there[g], x + k * step + 16 * g));
      some[g] = _mm512_mask_add_epi32(some[g], _mm512_cmp_ps_mask(y, _mm512_setzero_ps(), _CMP_GT_OQ), some[g], one);
      large[g] = _mm512_mask_add_epi32(large[g], _mm512_cmp_ps_mask(y, eighth[g], _CMP_GE_OQ), large[g], one);
      small[g] = _mm512_mask_add_epi32(small[g], _mm512_cmp_ps_mask(y, low[g], _CMP_LT_OQ), small[g], one);
    }
  for (int g = 0; g < groups; g++) {
    uint32_t m[16];
    int32_t n[16], l[16], t[16];
    float f[16];
    _mm512_storeu_si512(m, top[g]), _mm512_storeu_si512(n, some[g]), _mm512_storeu_si512(l, large[g]);
    _mm512_storeu_si512(t, small[g]), _mm512_storeu_ps(f, low[g]);
    for (int v = 0; v < 16 && 16 * g + v < vectors; v++) {
      most[16 * g + v] = m[v];
      spread[16 * g + v] = (Spread){n[v], l[v], t[v] - (f[v] > 0.0f ? (int32_t)K - n[v] : 0)};
    }
  }
}

/* 1 if it knows how these vectors lie, else 0. */
static AVX512 int scan_vnni(Operand a, int64_t vectors, int64_t K, uint32_t *most, Spread *spread) {
  if (a.step == 1 && a.across != 1) {
    scan_along(a, vectors, K, most, spread);
    return 1;
  }
  if (a.across != 1) return 0;
  int64_t v = 0;
  for (; v + 16 * SCANNED <= vectors; v += 16 * SCANNED)
    scan_groups(a.data + v, a.step, 16 * SCANNED, K, most + v, spread + v, SCANNED);
  for (; v < vectors; v += 16)
    scan_groups(a.data + v, a.step, vectors - v < 16 ? vectors - v : 16, K, most + v, spread + v, 1);
  return 1;
}

/* ---- blocks ---- */

#define A_BYTES (600 << 10) /* digits of rows that stay in the second cache */
#define B_BYTES (8 << 20)   /* digits of columns that are kept for all blocks of rows */
#define ROWS_TOGETHER 48    /* a multiple of MR and of GROUP */
#define AT_ONCE 8           /* groups whose values lie side by side and are cut together */

static char *room_of(Room *room, size_t size) {
  if (size <= room->size) return room->data;
  free(room->data);
  room->is_cut = room->b_is_cut = 0, room->size = size;
  room->data = aligned_alloc(64, (size + 63) / 64 * 64);
  if (!room->data) room->size = 0;
  return room->data;
}

typedef struct {
  int64_t K, piece, blocks;      /* pieces of K, of how many values */
  int64_t rows, stride, a_block; /* of a block of rows: how many, bytes of one, bytes of its digits for one piece of K */
  int64_t b_plane, b_block;      /* bytes of a panel of columns: of a plane, of all for one piece of K */
  int64_t groups;                /* of a block of rows */
  int slices, with_sums, planes;
} Blocking;

static int64_t block_length(const Blocking *at, int64_t k) { return at->K - k * at->piece < at->piece ? at->K - k * at->piece : at->piece; }

static Planes a_planes(const Blocking *at, uint8_t *A, int64_t k, int64_t row) {
  return (Planes){A + k * at->a_block + row * at->stride, at->rows * at->stride, at->stride};
}

/* Cuts groups of vectors over one piece of K, those that lie side by side 64 values at a time, so that memory is read in order.
 * `place` is the first group's; misfit[g] is 1 where a sum of digits did not fit. */
static void cut_vectors(const Blocking *at, Operand a, int64_t vectors, int64_t K, const int *exponent, uint8_t *place,
                        int64_t plane, int64_t stride, int32_t *total, uint8_t *misfit, int is_a) {
  int64_t groups = panels(vectors, GROUP), piece = a.across == 1 && K > 64 ? 64 : K, held = piece < K ? AT_ONCE : 1;
  memset(misfit, 0, (size_t)groups);
  if (is_a) memset(total, 0, sizeof(int32_t) * TOTALS * vectors);
  for (int64_t from = 0; from < groups; from += held)
    for (int64_t k = 0; k < K; k += piece)
      for (int64_t g = from; g < groups && g < from + held; g++) {
        int64_t first = g * GROUP, n = vectors - first < GROUP ? vectors - first : GROUP;
        Operand own = {a.data + first * a.across + k * a.step, a.step, a.across};
        uint8_t *to = place + (is_a ? first * stride + k : g / 2 * at->b_block * at->blocks + g % 2 * 64 + k * NR);
        misfit[g] |= cut_group_of(own, n, K - k < piece ? K - k : piece, exponent + first, (Planes){to, plane, stride},
                                  is_a ? total + TOTALS * first : NULL, is_a, at->slices, at->with_sums) != 0;
      }
}

/* C = A B with 3, 4 or 6 digits; K is at most PIECE, so that `high` is exact in float64 (_matmul.py). -1 without memory, else 0. */
static int product_vnni(Operand a, Operand b, float *C, int64_t ldc, int64_t M, int64_t N, int64_t K, int slices, const int *ea,
                        const int *eb, Room *room) {
  int64_t piece = slices > 4 ? SHORT / 2 : SHORT, longest = K < piece ? K : piece, blocks = panels(K, piece);
  int64_t stride = panels(longest, 64) * 64;
  int with_sums = K >= KARATSUBA ? 2 : 0, planes = planes_of(slices, with_sums), bits = 12 + 7 * (slices - 1);
  if (stride % 512 == 0) stride += 64; /* rows in other sets of the cache */
  int64_t fit = A_BYTES / (planes * blocks * stride) / ROWS_TOGETHER * ROWS_TOGETHER;
  int64_t rows = panels(M, ROWS_TOGETHER) * ROWS_TOGETHER;
  if (rows > fit) rows = fit < ROWS_TOGETHER ? ROWS_TOGETHER : fit;
  int64_t b_plane = (longest + 3) / 4 * NR * 4, b_block = planes * b_plane;
  int64_t columns = B_BYTES / (b_block * blocks) * NR; /* cut at once: for one block of rows a panel will do */
  columns = (M <= rows && !room->keep_b) || columns < NR ? NR : columns > N ? panels(N, NR) * NR : columns;
  Blocking at = {K, piece, blocks, rows, stride, planes * rows * stride, b_plane, b_block, rows / GROUP, slices, with_sums, planes};
  size_t for_a = (size_t)(blocks * at.a_block), for_b = (size_t)(blocks * columns / NR * b_block);
  size_t for_total = sizeof(int32_t) * TOTALS * blocks * rows, for_part = blocks > 1 ? sizeof(double) * rows * NR * 2 : 0;
  size_t for_unfit = (size_t)(panels(blocks * (at.groups + columns / GROUP), 64) * 64);
  uint8_t *A = (uint8_t *)room_of(room, for_a + for_b + for_total + for_part + for_unfit);
  if (!A) return -1;
  uint8_t *B = A + for_a, *unfit_a = B + for_b, *unfit_b = unfit_a + blocks * at.groups;
  int32_t *total = (int32_t *)(unfit_a + for_unfit);
  double *part = blocks > 1 ? (double *)((char *)total + for_total) : NULL;
  int32_t spare[6 * MR * NR] __attribute__((aligned(64))), *top = spare, *end = spare + MR * NR, *low = spare + 2 * MR * NR;
  const int32_t *sums_of[3] = {top, end, low};
  double col_scale[NR] __attribute__((aligned(64))), row_scale[MR];
  for (int64_t N0 = 0; N0 < N; N0 += columns) {
    int64_t width = N - N0 < columns ? N - N0 : columns;
    for (int64_t k = 0; k < blocks && !room->b_is_cut; k++) {
      Operand from = {b.data + N0 * b.across + k * piece * b.step, b.step, b.across};
      cut_vectors(&at, from, width, block_length(&at, k), eb + N0, B + k * b_block, b_plane, 0, NULL,
                  unfit_b + k * columns / GROUP, 0);
    }
    room->b_is_cut = columns >= N;
    for (int64_t m = 0; m < M; m += rows) {
      int64_t these = M - m < rows ? M - m : rows;
      if (!room->is_cut)
        for (int64_t k = 0; k < blocks; k++) {
          Operand from = {a.data + m * a.across + k * piece * a.step, a.step, a.across};
          cut_vectors(&at, from, these, block_length(&at, k), ea + m, A + k * at.a_block, rows * stride, stride,
                      total + TOTALS * k * rows, unfit_a + k * at.groups, 1);
        }
      room->is_cut = rows >= M;
      for (int64_t n = 0; n < width; n += NR) {
        int cols = width - n < NR ? (int)(width - n) : NR;
        for (int c = 0; c < NR; c++) col_scale[c] = c < cols ? power_f64(eb[N0 + n + c]) : 0.0;
        if (part) memset(part, 0, for_part);
        for (int64_t k = 0; k < blocks; k++) {
          const uint8_t *of_b = unfit_b + (k * columns + n) / GROUP, *of_a = unfit_a + k * at.groups;
          Planes panel = {B + (n / NR * blocks + k) * b_block, b_plane, 0};
          for (int64_t r = 0; r < these; r += MR) {
            int height = these - r < MR ? (int)(these - r) : MR;
            int unfit = of_b[0] || (cols > GROUP && of_b[1]) || of_a[r / GROUP] || of_a[(r + height - 1) / GROUP];
            int sums = with_sums && unfit ? 1 : with_sums;
            tile_vnni(a_planes(&at, A, k, r), panel, (block_length(&at, k) + 3) / 4, slices, sums, height, cols, top, end, low,
                      spare + 3 * MR * NR);
            for (int i = 0; i < height; i++) row_scale[i] = power_f64(ea[m + r + i] - bits);
            finish_tile(sums_of, total + TOTALS * (k * rows + r), slices, sums, height, cols, row_scale, col_scale,
                        part ? part + r * NR : NULL, rows * NR, k + 1 == blocks ? C + (m + r) * ldc + N0 + n : NULL, ldc);
          }
        }
      }
    }
  }
  return 0;
}
