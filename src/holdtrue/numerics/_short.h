/* Products of K < KARATSUBA values with VNNI: 16 vectors are looked at, cut and rounded at once, and a tile of C lives in registers
 * from the first product of digits to its float32. The integers are those of _vnni.h without sums of digits: top, end, low.
 *
 * Overflow. |D_d| <= (d + 1) 2^12 K, so with K <= 95 |128 D_0 + D_1|, |128 D_2 + D_3| and |128 D_4 + D_5| are at most
 * (128 * 5 + 6) 2^12 95 < 2^28, and |2^14 top + end| < 2^41. Fused additions change nothing: what they would round first is a
 * product with a power of two, which is exact.
 *
 * With four digits sums of digits save two products in ten, as in _vnni.h; a tile in which one does not fit its byte is made without
 * them, from the same digits. The integers, and what the 64s of B put into them, are the same.
 *
 * All operands become vectors side by side, values `step` floats apart: those that lie otherwise are laid so, 16 at a time.
 * Digits lie as words of four: A [plane][k / 4][row][4], B [panel][plane][k / 4][column][4] with 64 added. */

#define SHORT_ROWS 240       /* rows of A that are cut together: a multiple of GROUP and of all heights of tiles */
#define SHORT_B (512 << 10)  /* bytes of digits of B that are kept for all of them */
#define LAID (8 << 10)       /* floats of an operand that are laid once, for looking and for cutting */

/* 16 vectors, of which n are there (the others become 0), side by side: out[k * out_step + v]. */
static AVX512 void lay(Operand a, int64_t n, int64_t K, float *out, int64_t out_step) {
  if (a.step != 1) {
    for (int64_t k = 0; k < K; k++)
      for (int64_t v = 0; v < GROUP; v++) out[k * out_step + v] = v < n ? a.data[k * a.step + v * a.across] : 0.0f;
    return;
  }
  for (int64_t k = 0; k < K; k += 16) {
    int64_t left = K - k < 16 ? K - k : 16;
    __mmask16 there = (__mmask16)((1u << left) - 1);
    __m512i x[GROUP];
#pragma GCC unroll 16
    for (int v = 0; v < GROUP; v++) x[v] = _mm512_maskz_loadu_epi32(v < n ? there : 0, a.data + (v < n ? v * a.across + k : 0));
    transpose_words(x);
    if (left == 16)
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) _mm512_storeu_si512(out + (k + i) * out_step, x[i]);
    else
      for (int64_t i = 0; i < left; i++) _mm512_storeu_si512(out + (k + i) * out_step, x[i]);
  }
}

/* Up to 16 vectors from number `first`, side by side: where they are, or laid in `room` ([K][GROUP]). */
static Operand side_by_side(Operand a, int64_t first, int64_t n, int64_t K, float *room) {
  Operand from = {a.data + first * a.across, a.step, a.across};
  if (a.across == 1) return from;
  lay(from, n, K, room, GROUP);
  return (Operand){room, GROUP, 1};
}

/* Exponents of up to 16 vectors side by side, and which are wide, as scan_operand in _product.h; 1 if a value is not finite. */
static AVX512 int look(Operand a, int64_t n, int64_t K, int *exponent, int32_t *wide, int64_t *wides) {
  const __m512i size = _mm512_set1_epi32(0x7fffffff), one = _mm512_set1_epi32(1), zero = _mm512_setzero_si512();
  __mmask16 there = (__mmask16)((1u << n) - 1);
  __m512i top = zero, next = zero, some = zero, large = zero, small = zero;
  int64_t k = 0;
  for (; k + 2 <= K; k += 2) {
    top = _mm512_max_epu32(top, _mm512_and_si512(_mm512_maskz_loadu_epi32(there, a.data + k * a.step), size));
    next = _mm512_max_epu32(next, _mm512_and_si512(_mm512_maskz_loadu_epi32(there, a.data + (k + 1) * a.step), size));
  }
  if (k < K) top = _mm512_max_epu32(top, _mm512_and_si512(_mm512_maskz_loadu_epi32(there, a.data + k * a.step), size));
  top = _mm512_max_epu32(top, next);
  __m512 m = _mm512_castsi512_ps(top);
  __m512 eighth = _mm512_mul_ps(m, _mm512_set1_ps(0.125f)), low = _mm512_mul_ps(m, _mm512_set1_ps(0.00390625f));
  for (k = 0; k < K; k++) {
    __m512i x = _mm512_maskz_loadu_epi32(there, a.data + k * a.step);
    __m512 y = _mm512_castsi512_ps(_mm512_and_si512(x, size));
    some = _mm512_mask_add_epi32(some, _mm512_test_epi32_mask(x, size), some, one);
    large = _mm512_mask_add_epi32(large, _mm512_cmp_ps_mask(y, eighth, _CMP_GE_OQ), large, one);
    small = _mm512_mask_add_epi32(small, _mm512_cmp_ps_mask(y, low, _CMP_LT_OQ), small, one);
  }
  __m512i zeros = _mm512_sub_epi32(_mm512_set1_epi32((int)K), some);
  __m512i tiny = _mm512_mask_sub_epi32(small, _mm512_cmp_ps_mask(low, _mm512_setzero_ps(), _CMP_GT_OQ), small, zeros);
  __mmask16 are_wide = _mm512_cmple_epi32_mask(_mm512_slli_epi32(large, 3), some) |
                       _mm512_cmpgt_epi32_mask(_mm512_slli_epi32(tiny, 4), some) |
                       _mm512_cmplt_epi32_mask(some, _mm512_set1_epi32(8));
  __mmask16 has_values = _mm512_test_epi32_mask(top, top);
  are_wide &= has_values & there;
  __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_getexp_ps(m)), one);
  _mm512_mask_storeu_epi32(exponent, there, _mm512_maskz_mov_epi32(has_values, e));
  _mm512_mask_storeu_epi32(wide, there, _mm512_maskz_mov_epi32(are_wide, one));
  *wides += __builtin_popcount(are_wide);
  return (_mm512_cmpge_epu32_mask(top, _mm512_set1_epi32(0x7f800000)) & there) != 0;
}

/* The same for all vectors. `laid` is where they lie side by side then: as they were, or if there is room for them in `room`. */
static AVX512 int scan_short(Operand a, int64_t vectors, int64_t K, int *exponent, int32_t *wide, int64_t *wides, float *room,
                             Operand *laid) {
  int64_t all = panels(vectors, GROUP) * GROUP;
  int status = 0, is_kept = a.across != 1 && all * K <= LAID;
  float own[KARATSUBA * GROUP] __attribute__((aligned(64)));
  *laid = is_kept ? (Operand){room, all, 1} : a;
  for (int64_t v = 0; v < vectors; v += GROUP) {
    int64_t n = vectors - v < GROUP ? vectors - v : GROUP;
    if (is_kept) lay((Operand){a.data + v * a.across, a.step, a.across}, n, K, room + v, all);
    status |= look(is_kept ? (Operand){room + v, all, 1} : side_by_side(a, v, n, K, own), n, K, exponent + v, wide + v, wides);
  }
  return status;
}

/* What is taken from the integers of 16 rows, whose sums of digits are total[s], for the 64s of B: in[i * apart + row]. */
static inline __attribute__((always_inline)) AVX512 void short_offsets(const __m512i *total, const int slices, int32_t *in,
                                                                       int64_t apart) {
  __m512i three = _mm512_add_epi32(_mm512_add_epi32(total[0], total[1]), total[2]);
  __m512i top = _mm512_add_epi32(_mm512_slli_epi32(total[0], 7), _mm512_add_epi32(total[0], total[1])), end = three;
  if (slices > 3) end = _mm512_add_epi32(_mm512_slli_epi32(three, 7), _mm512_add_epi32(three, total[3]));
  _mm512_storeu_si512(in, _mm512_slli_epi32(top, 6));
  _mm512_storeu_si512(in + apart, _mm512_slli_epi32(end, 6));
  if (slices < 5) return;
  __m512i five = _mm512_add_epi32(_mm512_add_epi32(three, total[3]), total[4]);
  __m512i low = _mm512_add_epi32(_mm512_slli_epi32(five, 7), _mm512_add_epi32(five, total[5]));
  _mm512_storeu_si512(in + 2 * apart, _mm512_slli_epi32(low, 6));
}

/* Digits of up to 16 vectors side by side, as words `stride` bytes apart; of A also what short_offsets makes of their totals. Not 0:
 * a sum of digits did not fit. */
static inline __attribute__((always_inline)) AVX512 int cut_words_of(Operand a, int64_t n, int64_t K, const int *exponent,
                                                                     uint8_t *to, int64_t plane, int64_t stride, int32_t *in,
                                                                     const int slices, const int with_sums, const int is_a) {
  __mmask16 there = (__mmask16)((1u << n) - 1);
  __m512i total[MAX_SLICES], p[MAX_PLANES];
  const int planes = with_sums ? planes_of(slices) : slices;
  uint64_t misfit = 0;
  __m512i e = _mm512_sub_epi32(_mm512_set1_epi32(6), _mm512_maskz_loadu_epi32(there, exponent));
  __m512 power = _mm512_cvtepi32_ps(e);
#pragma GCC unroll 6
  for (int s = 0; s < slices; s++) total[s] = _mm512_setzero_si512();
  for (int64_t k = 0; k < K; k += 4, to += stride) {
    cut_across(a.data + k * a.step, a.step, K - k < 4 ? (int)(K - k) : 4, there, power, slices, is_a ? 0 : 64, p);
    if (with_sums) misfit |= digit_sums(p, slices, is_a ? 0 : 64);
#pragma GCC unroll 9
    for (int s = 0; s < planes; s++) {
      _mm512_storeu_si512(to + s * plane, p[s]);
      if (is_a && s < slices) total[s] = _mm512_dpbusd_epi32(total[s], _mm512_set1_epi8(1), p[s]);
    }
  }
  if (is_a) short_offsets(total, slices, in, SHORT_ROWS);
  return misfit != 0;
}
static AVX512 int cut_words(Operand a, int64_t n, int64_t K, const int *exponent, uint8_t *to, int64_t plane, int64_t stride,
                            int32_t *in, int slices, int with_sums) {
#define CUT(SLICES, WITH_SUMS)                                                                                            \
  if (slices == SLICES && with_sums == WITH_SUMS)                                                                         \
    return in ? cut_words_of(a, n, K, exponent, to, plane, stride, in, SLICES, WITH_SUMS, 1)                              \
              : cut_words_of(a, n, K, exponent, to, plane, stride, NULL, SLICES, WITH_SUMS, 0);
  CUT(4, 1) CUT(3, 0)
#undef CUT
  return in ? cut_words_of(a, n, K, exponent, to, plane, stride, in, 6, 0, 1)
            : cut_words_of(a, n, K, exponent, to, plane, stride, NULL, 6, 0, 0);
}

/* 2^(e + add) of 16 exponents. */
static AVX512 void powers(const int *exponent, int64_t n, int add, double *out) {
  __m512i e = _mm512_add_epi32(_mm512_maskz_loadu_epi32((__mmask16)((1u << n) - 1), exponent), _mm512_set1_epi32(add + 1023));
  _mm512_storeu_si512(out, _mm512_slli_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(e)), 52));
  _mm512_storeu_si512(out + 8, _mm512_slli_epi64(_mm512_cvtepi32_epi64(_mm512_extracti32x8_epi32(e, 1)), 52));
}

/* ---- tiles ---- */

/* Rows of A and a panel of B as digits, and what rounding needs of them. */
typedef struct {
  const uint8_t *a, *b;
  int64_t a_plane, a_stride, b_plane, k4; /* bytes from plane to plane, and of A from word to word */
  const int32_t *in;                      /* top, end, low of row r: in[i * SHORT_ROWS + r] */
  const double *row_scale, *col_scale;
} Strip;

/* sum += D_d, the products of digits s of A and d - s of B. */
static inline __attribute__((always_inline)) AVX512 void add_diagonal(const Strip *at, const int d, const int rows, const int wide,
                                                                      __m512i sum[][2]) {
  const uint8_t *x = at->a, *y = at->b;
  const int64_t a_plane = at->a_plane, b_plane = at->b_plane, stride = at->a_stride;
  for (int64_t k = at->k4; k; k--, x += stride, y += NR * 4)
#pragma GCC unroll 6
    for (int s = 0; s <= d; s++) add_words(x + s * a_plane, 4, y + (d - s) * b_plane, rows, wide, sum);
}

/* sum = 128 D_d + D_(d+1), or D_d alone. */
static inline __attribute__((always_inline)) AVX512 void add_pair(const Strip *at, const int d, const int both, const int rows,
                                                                  const int wide, __m512i sum[][2]) {
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm512_setzero_si512();
  add_diagonal(at, d, rows, wide, sum);
  if (!both) return;
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++) sum[r][0] = _mm512_slli_epi32(sum[r][0], 7), sum[r][1] = _mm512_slli_epi32(sum[r][1], 7);
  add_diagonal(at, d + 1, rows, wide, sum);
}

/* The float32 of a tile's integers. */
static inline __attribute__((always_inline)) AVX512 void round_tile(const Strip *at, __m512i top[][2], __m512i end[][2],
                                                                    __m512i low[][2], int height, int cols, float *C, int64_t ldc,
                                                                    const int slices, const int rows, const int wide) {
  const __m512d weight = _mm512_set1_pd(slices > 3 ? 16384.0 : 128.0);
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++) {
    if (r >= height) break;
    __m512d scale = _mm512_set1_pd(at->row_scale[r]);
    __m512i in_top = _mm512_set1_epi32(at->in[r]), in_end = _mm512_set1_epi32(at->in[SHORT_ROWS + r]), in_low = in_end;
    if (slices > 4) in_low = _mm512_set1_epi32(at->in[2 * SHORT_ROWS + r]);
#pragma GCC unroll 2
    for (int w = 0; w <= wide; w++) {
      __m512i t = _mm512_sub_epi32(top[r][w], in_top), e = _mm512_sub_epi32(end[r][w], in_end), l = e;
      if (slices > 4) l = _mm512_sub_epi32(low[r][w], in_low);
      __m512d value[2];
#pragma GCC unroll 2
      for (int h = 0; h < 2; h++) {
        __m512d high = _mm512_fmadd_pd(half_of(t, h), weight, half_of(e, h));
        if (slices > 4) high = _mm512_fmadd_pd(high, weight, half_of(l, h));
        value[h] = _mm512_mul_pd(_mm512_mul_pd(high, scale), _mm512_load_pd(at->col_scale + 16 * w + 8 * h));
      }
      __m512 both = _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(value[0])), _mm512_cvtpd_ps(value[1]), 1);
      int n = cols - 16 * w;
      if (n >= 16) _mm512_storeu_ps(C + r * ldc + 16 * w, both);
      else _mm512_mask_storeu_ps(C + r * ldc + 16 * w, (__mmask16)((1u << n) - 1), both);
    }
  }
}

static inline __attribute__((always_inline)) AVX512 void short_tile_of(const Strip *at, int height, int cols, float *C, int64_t ldc,
                                                                       const int slices, const int rows, const int wide) {
  __m512i top[6][2], end[6][2], low[6][2];
  add_pair(at, 0, 1, rows, wide, top);
  add_pair(at, 2, slices > 3, rows, wide, end);
  if (slices > 4) add_pair(at, 4, 1, rows, wide, low);
  round_tile(at, top, end, low, height, cols, C, ldc, slices, rows, wide);
}

/* sum += the product of plane s of A and plane t of B. */
static inline __attribute__((always_inline)) AVX512 void add_planes(const Strip *at, const int s, const int t, const int rows,
                                                                    const int wide, __m512i sum[][2]) {
  const uint8_t *x = at->a + s * at->a_plane, *y = at->b + t * at->b_plane;
  for (int64_t k = at->k4, stride = at->a_stride; k; k--, x += stride, y += NR * 4) add_words(x, 4, y, rows, wide, sum);
}

/* The same tile of four digits with sums of digits, planes 4 to 6: 01, 02, 12; see _vnni.h for the formulas. */
static inline __attribute__((always_inline)) AVX512 void short_sums_of(const Strip *at, int height, int cols, float *C, int64_t ldc,
                                                                       const int rows, const int wide) {
  __m512i p00[4][2], p11[4][2], p22[4][2], top[4][2], mid[4][2], end[4][2];
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (int w = 0; w < 2; w++) p00[r][w] = p11[r][w] = p22[r][w] = _mm512_setzero_si512();
  add_planes(at, 0, 0, rows, wide, p00); /* one by one, lest the compiler take more registers than there are */
  add_planes(at, 1, 1, rows, wide, p11);
  add_planes(at, 2, 2, rows, wide, p22);
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (int w = 0; w <= wide; w++) {
      end[r][w] = _mm512_add_epi32(p11[r][w], p22[r][w]); /* to be taken away */
      mid[r][w] = _mm512_sub_epi32(_mm512_sub_epi32(p11[r][w], p00[r][w]), p22[r][w]);
      top[r][w] = _mm512_sub_epi32(_mm512_sub_epi32(_mm512_slli_epi32(p00[r][w], 7), p00[r][w]), p11[r][w]);
    }
  add_planes(at, 4, 4, rows, wide, top);
  add_planes(at, 5, 5, rows, wide, mid);
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (int w = 0; w <= wide; w++) end[r][w] = _mm512_sub_epi32(_mm512_slli_epi32(mid[r][w], 7), end[r][w]);
  add_planes(at, 6, 6, rows, wide, end);
  add_planes(at, 0, 3, rows, wide, end);
  add_planes(at, 3, 0, rows, wide, end);
  round_tile(at, top, end, end, height, cols, C, ldc, 4, rows, wide);
}
static AVX512 __attribute__((noinline)) void short_sums_4_1(const Strip *at, int height, int cols, float *C, int64_t ldc) {
  short_sums_of(at, height, cols, C, ldc, 4, 1);
}
static AVX512 __attribute__((noinline)) void short_sums_4_0(const Strip *at, int height, int cols, float *C, int64_t ldc) {
  short_sums_of(at, height, cols, C, ldc, 4, 0);
}

#define TILE(SLICES, ROWS, WIDE)                                                                                                  \
  static AVX512 __attribute__((noinline)) void short_##SLICES##_##ROWS##_##WIDE(const Strip *at, int height, int cols, float *C,  \
                                                                                int64_t ldc) {                                   \
    short_tile_of(at, height, cols, C, ldc, SLICES, ROWS, WIDE);                                                                  \
  }
#define TILES(SLICES, MOST) TILE(SLICES, MOST, 0) TILE(SLICES, MOST, 1) TILE(SLICES, 2, 0) TILE(SLICES, 2, 1)
TILES(3, 6) TILES(4, 4) TILES(6, 4) TILE(3, 4, 0) TILE(3, 4, 1)
#undef TILES
#undef TILE

/* Tiles of up to this many rows: three integers at once need a third of the registers each. */
static inline int most_rows(int slices) { return slices > 3 ? 4 : 6; }

static void short_tile(const Strip *at, int slices, int with_sums, int height, int cols, float *C, int64_t ldc) {
  int of = cols > 16;
  for (int r = 0; r < height; r++) __builtin_prefetch(C + r * ldc, 1), __builtin_prefetch(C + r * ldc + cols - 1, 1);
#define TO(SLICES, ROWS) (of ? short_##SLICES##_##ROWS##_1 : short_##SLICES##_##ROWS##_0)(at, height, cols, C, ldc)
  if (with_sums) TO(sums, 4);
  else if (slices == 4) height > 2 ? TO(4, 4) : TO(4, 2);
  else if (slices == 3) height > 4 ? TO(3, 6) : height > 2 ? TO(3, 4) : TO(3, 2);
  else height > 2 ? TO(6, 4) : TO(6, 2);
#undef TO
}

/* C = A B with 3, 4 or 6 digits, K < KARATSUBA. -1 without memory, else 0. */
static int product_short(Operand a, Operand b, float *C, int64_t ldc, int64_t M, int64_t N, int64_t K, int slices, const int *ea,
                         const int *eb, Room *room) {
  int with_sums = slices == 4, planes = with_sums ? planes_of(slices) : slices, most = most_rows(slices);
  int64_t k4 = (K + 3) / 4, b_plane = k4 * NR * 4, panel = planes * b_plane, all = panels(N, NR);
  int64_t rows = panels(M, GROUP) * GROUP < SHORT_ROWS ? panels(M, GROUP) * GROUP : SHORT_ROWS;
  int64_t a_stride = rows * 4, a_plane = k4 * a_stride, for_a = planes * a_plane;
  int is_kept = all * panel <= SHORT_B && (M > rows || room->keep_b), bits = 12 + 7 * (slices - 1);
  int64_t for_b = is_kept ? all * panel : panel, for_scales = (SHORT_ROWS + all * NR) * (int64_t)sizeof(double);
  int64_t for_in = 3 * SHORT_ROWS * (int64_t)sizeof(int32_t);
  char *place = room_of(room, (size_t)(for_a + for_b + for_scales + for_in + SHORT_ROWS / GROUP + all));
  if (!place) return -1;
  uint8_t *B = (uint8_t *)place, *A = B + for_b;
  double *row_scale = (double *)(A + for_a), *col_scale = row_scale + SHORT_ROWS;
  int32_t *in = (int32_t *)(col_scale + all * NR);
  uint8_t *unfit_a = (uint8_t *)in + for_in, *unfit_b = unfit_a + SHORT_ROWS / GROUP;
  float laid[KARATSUBA * GROUP] __attribute__((aligned(64)));
  Strip at = {A, B, a_plane, a_stride, b_plane, k4, in, row_scale, col_scale};
  for (int64_t m = 0; m < M; m += rows) {
    int64_t these = M - m < rows ? M - m : rows;
    for (int64_t g = 0; g < these && !room->is_cut; g += GROUP) {
      int64_t n = these - g < GROUP ? these - g : GROUP;
      Operand from = side_by_side(a, m + g, n, K, laid);
      unfit_a[g / GROUP] = (uint8_t)cut_words(from, n, K, ea + m + g, A + 4 * g, a_plane, a_stride, in + g, slices, with_sums);
      powers(ea + m + g, n, -bits, row_scale + g);
    }
    room->is_cut = rows >= M;
    for (int64_t q = 0; q < all; q++) {
      int cols = N - q * NR < NR ? (int)(N - q * NR) : NR;
      uint8_t *to = is_kept ? B + q * panel : B;
      for (int g = 0; g < cols && !room->b_is_cut; g += GROUP) {
        int64_t first = q * NR + g, n = cols - g < GROUP ? cols - g : GROUP;
        Operand from = side_by_side(b, first, n, K, laid);
        int is_unfit = cut_words(from, n, K, eb + first, to + 4 * g, b_plane, NR * 4, NULL, slices, with_sums);
        unfit_b[q] = (uint8_t)(is_unfit | (g && unfit_b[q]));
        powers(eb + first, n, 0, col_scale + first);
      }
      at.b = to, at.col_scale = col_scale + q * NR;
      for (int64_t r = 0; r < these; r += most) {
        int height = these - r < most ? (int)(these - r) : most;
        int sums = with_sums && !unfit_b[q] && !unfit_a[r / GROUP]; /* with sums a tile's rows are all of one group */
        at.a = A + 4 * r, at.in = in + r, at.row_scale = row_scale + r;
        fetch_ahead(room->ahead, most), fetch_ahead(room->ahead + 1, most);
        short_tile(&at, slices, sums, height, cols, C + (m + r) * ldc + q * NR, ldc);
      }
    }
    room->b_is_cut = is_kept;
  }
  return 0;
}

/* One tile for the self-test: see ht_short. */
static AVX512 void short_test(const uint8_t *a, const uint8_t *b, int64_t k4, int slices, int with_sums, int rows, int cols,
                              const int32_t *total, float *out) {
  double scale[NR] __attribute__((aligned(64)));
  int32_t in[3 * SHORT_ROWS];
  __m512i sums[MAX_SLICES];
  for (int c = 0; c < NR; c++) scale[c] = 1.0;
  for (int s = 0; s < MAX_SLICES; s++) sums[s] = _mm512_loadu_si512(total + s * GROUP);
  short_offsets(sums, slices, in, SHORT_ROWS);
  Strip at = {a, b, k4 * GROUP * 4, GROUP * 4, k4 * NR * 4, k4, in, scale, scale};
  short_tile(&at, slices, with_sums, rows, cols, out, NR);
}
