/* The product with VNNI whole: looking at vectors, blocks that fit the caches, tiles one by one. See _vnni.h. */

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

typedef struct {
  int64_t K, piece, blocks;      /* pieces of K, of how many values */
  int64_t rows, stride, a_block; /* of a block of rows: how many, bytes of one, bytes of its digits for one piece of K */
  int64_t b_plane, b_block;      /* bytes of a panel of columns: of a plane, of all for one piece of K */
  int64_t groups;                /* of a block of rows */
  int slices;
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
                                  is_a ? total + TOTALS * first : NULL, is_a, at->slices) != 0;
      }
}

/* C = A B with 3, 4 or 6 digits; K is at least KARATSUBA, and at most PIECE, so that `high` is exact in float64 (_matmul.py).
 * -1 without memory, else 0. */
static int product_vnni(Operand a, Operand b, float *C, int64_t ldc, int64_t M, int64_t N, int64_t K, int slices, const int *ea,
                        const int *eb, Room *room) {
  int64_t piece = slices > 4 ? SHORT / 2 : SHORT, longest = K < piece ? K : piece, blocks = panels(K, piece);
  int64_t stride = panels(longest, 64) * 64;
  int planes = planes_of(slices), bits = 12 + 7 * (slices - 1);
  if (stride % 512 == 0) stride += 64; /* rows in other sets of the cache */
  int64_t fit = A_BYTES / (planes * blocks * stride) / ROWS_TOGETHER * ROWS_TOGETHER;
  int64_t rows = panels(M, ROWS_TOGETHER) * ROWS_TOGETHER;
  if (rows > fit) rows = fit < ROWS_TOGETHER ? ROWS_TOGETHER : fit;
  int64_t b_plane = (longest + 3) / 4 * NR * 4, b_block = planes * b_plane;
  int64_t columns = B_BYTES / (b_block * blocks) * NR; /* cut at once: for one block of rows a panel will do */
  columns = (M <= rows && !room->keep_b) || columns < NR ? NR : columns > N ? panels(N, NR) * NR : columns;
  Blocking at = {K, piece, blocks, rows, stride, planes * rows * stride, b_plane, b_block, rows / GROUP, slices};
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
            int sums = unfit ? 1 : 2;
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
