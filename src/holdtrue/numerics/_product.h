/* The matrix product of digits: diagonals by one of three engines, tiles, wide rows, batches. See _operands.h for the bounds. */
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

#ifdef HT_X86
#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")))

/* A diagonal where K > PIECE. */
static AVX2 void diagonal_avx2(const uint8_t *a, int64_t a_bytes, const uint8_t *b, int64_t b_bytes, int d, int64_t k4,
                               int rows, int cols, int32_t *acc) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (int c = 0; c < cols; c += 16)
    for (int r = 0; r < rows; r++) {
      __m256i left = _mm256_setzero_si256(), right = left;
      for (int s = 0; s <= d; s++) {
        const uint8_t *x = a + s * a_bytes + 4 * r, *y = b + (d - s) * b_bytes + 4 * c;
        for (int64_t k = 0; k < k4; k++, x += MR * 4, y += NR * 4) {
          int32_t four;
          memcpy(&four, x, 4);
          __m256i v = _mm256_set1_epi32(four);
          __m256i first = _mm256_maddubs_epi16(_mm256_loadu_si256((const __m256i *)y), v);
          __m256i second = _mm256_maddubs_epi16(_mm256_loadu_si256((const __m256i *)(y + 32)), v);
          left = _mm256_add_epi32(left, _mm256_madd_epi16(first, ones));
          right = _mm256_add_epi32(right, _mm256_madd_epi16(second, ones));
        }
      }
      _mm256_storeu_si256((__m256i *)(acc + r * NR + c), left);
      _mm256_storeu_si256((__m256i *)(acc + r * NR + c + 8), right);
    }
}

/* sum += the products of four digits of each row (x, `apart` bytes from row to row) and of each column (y). */
static inline __attribute__((always_inline)) AVX512 void add_words(const uint8_t *x, const int64_t apart, const uint8_t *y,
                                                                   const int rows, const int wide, __m512i sum[][2]) {
  __m512i y0 = _mm512_loadu_si512(y), y1 = wide ? _mm512_loadu_si512(y + 64) : y0;
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) {
    int32_t four;
    memcpy(&four, x + r * apart, 4);
    __m512i v = _mm512_set1_epi32(four);
    sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], y0, v);
    if (wide) sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], y1, v);
  }
}

static inline __attribute__((always_inline)) AVX512 void rows_vnni(const uint8_t *a, int64_t a_bytes, const uint8_t *b,
                                                                  int64_t b_bytes, int d, int64_t k4, const int rows,
                                                                  const int wide, int32_t *acc) {
  __m512i sum[MR][2];
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm512_setzero_si512();
  for (int s = 0; s <= d; s++) {
    const uint8_t *x = a + s * a_bytes, *y = b + (d - s) * b_bytes;
    for (int64_t k = 0; k < k4; k++, x += MR * 4, y += NR * 4) add_words(x, 4, y, rows, wide, sum);
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

#ifdef HT_X86
#define PICK_DIAGONAL(engine) \
  ((engine) == ENGINE_VNNI ? diagonal_vnni : (engine) == ENGINE_AVX2 ? diagonal_avx2 : diagonal_generic)
#else
#define PICK_DIAGONAL(engine) diagonal_generic
#endif

/* How many panels of so many vectors hold them all; the last may be partly filled. */
static int64_t panels(int64_t vectors, int64_t width) { return (vectors + width - 1) / width; }

/* Rows of memory that the next product will read, to be fetched during this one. */
typedef struct {
  const char *at;
  int64_t rows, apart, bytes;
} Ahead;

/* Memory that grows, kept through the products of one call, and what of it the next product can use again. */
typedef struct {
  char *data;
  size_t size;
  int is_cut, b_is_cut; /* the digits of A, or of B, in it are those of the next product too */
  int keep_b;           /* B will come again */
  Ahead ahead[2];
} Room;

/* At least so much of it; the digits in what was smaller are lost. NULL without memory. */
static char *room_of(Room *room, size_t size) {
  if (size <= room->size) return room->data;
  free(room->data);
  room->is_cut = room->b_is_cut = 0, room->size = size;
  room->data = aligned_alloc(64, (size + 63) / 64 * 64);
  if (!room->data) room->size = 0;
  return room->data;
}

static inline void fetch_ahead(Ahead *of, int64_t rows) {
  for (; rows && of->rows; rows--, of->rows--, of->at += of->apart)
    for (int64_t i = 0; i < of->bytes; i += 64) __builtin_prefetch(of->at + i, 0, 2);
}

#ifdef HT_X86
#include "_avx2.h"
#include "_vnni.h"
#include "_blocks.h"
#include "_short.h"
#endif

/* C = A B with so many slices for every vector. For each piece of K, A's digits are cut once, in panels of MR rows, and B's
 * one panel of NR columns at a time. Returns -1 without memory, else 0. */
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
      PICK(engine, cut_a)(at, M - p * MR < MR ? M - p * MR : MR, kn, ea + p * MR, slices, 0, A + p * a_panel, a_slice,
                            sums + p * MAX_SLICES * MR);
    }
    for (int64_t q = 0; q < pn; q++) {
      int cols = N - q * NR < NR ? (int)(N - q * NR) : NR;
      Operand at = {b.data + q * NR * b.across + k0 * b.step, b.step, b.across};
      PICK(engine, cut_b)(at, cols, kn, eb + q * NR, slices, 64, B, b_slice, NULL);
      for (int c = 0; c < NR; c++) col_scale[c] = c < cols ? power_f64(eb[q * NR + c]) : 0.0;
      for (int64_t p = 0; p < pm; p++) {
        int rows = M - p * MR < MR ? (int)(M - p * MR) : MR;
        int32_t acc[MR * NR] __attribute__((aligned(64))), correction[MR] = {0};
        double part[2 * MR * NR] __attribute__((aligned(64))) = {0};
        for (int d = 0; d < slices; d++) {
          PICK_DIAGONAL(engine)(A + p * a_panel, a_slice, B, b_slice, d, steps, rows, cols, acc);
          for (int r = 0; r < rows; r++) correction[r] += 64 * sums[(p * MAX_SLICES + d) * MR + r]; /* none are written beyond */
          PICK(engine, combine)(acc, correction, part + (d > 3) * MR * NR, rows);
        }
        double *high = part, *low = part + MR * NR;
        if (pieces > 1) {
          double *to = totals + (q * pm + p) * MR * NR * kept;
          for (int i = 0; i < MR * NR * kept; i++) to[i] += part[i];
          high = to, low = to + MR * NR;
        }
        if (piece + 1 < pieces) continue;
        for (int r = 0; r < MR; r++) row_scale[r] = r < rows ? power_f64(ea[p * MR + r] - bits) : 0.0;
        PICK(engine, write)(high, low, kept - 1, row_scale, col_scale, rows, cols, C + p * MR * ldc + q * NR, ldc);
      }
    }
  }
  free(A), free(B), free(sums), free(totals);
  return 0;
}

/* The same by the engine's own way, if it has one for such a product. */
static int some_product(Operand a, Operand b, float *C, int64_t ldc, int64_t M, int64_t N, int64_t K, int slices, const int *ea,
                        const int *eb, int engine, Room *room) {
#ifdef HT_X86
  if (engine == ENGINE_VNNI && K && K < KARATSUBA) return product_short(a, b, C, ldc, M, N, K, slices, ea, eb, room);
  if (engine == ENGINE_VNNI && K && K <= PIECE) return product_vnni(a, b, C, ldc, M, N, K, slices, ea, eb, room);
  if (engine == ENGINE_AVX2 && K && K <= PIECE) return product_avx2(a, b, C, ldc, M, N, K, slices, ea, eb, room);
#endif
  (void)room;
  return one_product(a, b, C, ldc, M, N, K, slices, ea, eb, engine);
}

/* What is known of the vectors of an operand before they are cut. */
typedef struct {
  int *exponent;
  int32_t *wide; /* 1 for a vector that asks for more digits */
  int64_t wides;
  uint32_t *most;
  Spread *spread;
  Operand laid; /* where the vectors are for the product: as they were, or in `room` */
  float *room;
} Scan;

static int scan_open(Scan *s, int64_t vectors) {
  s->exponent = malloc(sizeof(int) * (vectors + MR + NR)), s->wide = malloc(sizeof(int32_t) * (vectors + 1));
  s->most = malloc(sizeof(uint32_t) * (vectors + 1));
  s->spread = malloc(sizeof(Spread) * (vectors + 1));
  s->room = NULL;
#ifdef HT_X86
  s->room = aligned_alloc(64, sizeof(float) * LAID);
  if (!s->room) return -1;
#endif
  return s->exponent && s->wide && s->most && s->spread ? 0 : -1;
}
static void scan_close(Scan *s) {
  free(s->exponent), free(s->wide), free(s->most), free(s->spread), free(s->room);
}

/* Exponents, and which vectors are wide; returns 1 if a value is not finite, else 0. */
static int scan_operand(Operand a, int64_t vectors, int64_t K, Scan *s, int engine) {
  int status = 0;
  s->laid = a, s->wides = 0;
#ifdef HT_X86
  if (engine == ENGINE_VNNI && K < KARATSUBA)
    return scan_short(a, vectors, K, s->exponent, s->wide, &s->wides, s->room, &s->laid);
  if (engine != ENGINE_VNNI || !scan_vnni(a, vectors, K, s->most, s->spread))
#endif
    PICK(engine, scan)(a, vectors, K, s->most, s->spread);
  for (int64_t v = 0; v < vectors; v++) {
    Spread at = s->spread[v];
    status |= s->most[v] >= 0x7f800000u;
    s->exponent[v] = exponent_of(s->most[v]);
    s->wide[v] = at.some && (8 * (int64_t)at.large <= at.some || 16 * (int64_t)at.tiny > at.some || at.some < 8);
    s->wides += s->wide[v];
  }
  return status;
}

/* Copies vectors, usual ones first; `order` says which went where. Vectors that lie side by side stay so, and short ones are
 * laid so, since cutting them one by one would waste most of each step. Returns where the copies are. */
static Operand sort_vectors(Operand a, int64_t vectors, int64_t K, const Scan *s, float *out, int64_t *order, int *exponent) {
  int64_t usual = 0, wide = vectors - s->wides;
  Operand to = a.across == 1 || K < 16 ? (Operand){out, vectors, 1} : (Operand){out, 1, K};
  for (int64_t v = 0; v < vectors; v++) {
    int64_t at = s->wide[v] ? wide++ : usual++;
    order[at] = v, exponent[at] = s->exponent[v];
  }
  if (to.across == 1) {
    for (int64_t k = 0; k < K; k++)
      for (int64_t at = 0; at < vectors; at++) out[k * vectors + at] = a.data[k * a.step + order[at] * a.across];
    return to;
  }
  for (int64_t at = 0; at < vectors; at++) {
    const float *from = a.data + order[at] * a.across;
    if (a.step == 1) memcpy(out + at * K, from, sizeof(float) * K);
    else
      for (int64_t k = 0; k < K; k++) out[at * K + k] = from[k * a.step];
  }
  return to;
}

/* Where the results of sorted vectors belong; an operand without wide ones stays where it is (NULL). */
static void put_back(const float *D, float *C, int64_t M, int64_t N, const int64_t *row, const int64_t *column) {
  for (int64_t i = 0; i < M; i++) {
    float *to = C + (row ? row[i] : i) * N;
    if (!column) memcpy(to, D + i * N, sizeof(float) * (size_t)N);
    else
      for (int64_t j = 0; j < N; j++) to[column[j]] = D[i * N + j];
  }
}

/* A product in which some vectors are wide: their elements with MAX_SLICES, the others with `slices`. */
static int mixed_product(Operand a, Operand b, float *C, int64_t M, int64_t N, int64_t K, int slices, const Scan *sa,
                         const Scan *sb, int engine, Room *room) {
  room->is_cut = room->b_is_cut = 0;
  if (sa->wides == M || sb->wides == N)
    return some_product(a, b, C, N, M, N, K, MAX_SLICES, sa->exponent, sb->exponent, engine, room);
  int64_t m = M - sa->wides, n = N - sb->wides, *order = malloc(sizeof(int64_t) * (M + N));
  float *rows = m < M ? malloc(sizeof(float) * M * K) : NULL, *columns = n < N ? malloc(sizeof(float) * N * K) : NULL;
  float *D = malloc(sizeof(float) * M * N);
  int *exponents = malloc(sizeof(int) * (M + N + MR + NR)), *ea = exponents, *eb = exponents + M + MR, status = -1;
  if (order && D && exponents && (rows || m == M) && (columns || n == N)) {
    Operand all_a = a, all_b = b;
    if (rows) all_a = sort_vectors(a, M, K, sa, rows, order, ea);
    else ea = sa->exponent;
    if (columns) all_b = sort_vectors(b, N, K, sb, columns, order + M, eb);
    else eb = sb->exponent;
    Operand wide_a = {all_a.data + m * all_a.across, all_a.step, all_a.across};
    Operand wide_b = {all_b.data + n * all_b.across, all_b.step, all_b.across};
    status = some_product(all_a, all_b, D, N, m, n, K, slices, ea, eb, engine, room);
    room->is_cut = room->b_is_cut = 0;
    if (!status && m < M) {
      status = some_product(wide_a, all_b, D + m * N, N, M - m, N, K, MAX_SLICES, ea + m, eb, engine, room);
      room->is_cut = room->b_is_cut = 0;
    }
    if (!status && n < N) {
      status = some_product(all_a, wide_b, D + n, N, m, N - n, K, MAX_SLICES, ea, eb + n, engine, room);
      room->is_cut = room->b_is_cut = 0;
    }
    if (!status) put_back(D, C, M, N, rows ? order : NULL, columns ? order + M : NULL);
  }
  free(order), free(rows), free(columns), free(D), free(exponents);
  return status;
}

static Ahead ahead_of(const float *x, int64_t step, int64_t across, int64_t vectors, int64_t K) {
  if (across == 1) return (Ahead){(const char *)x, K, 4 * step, 4 * vectors};
  return (Ahead){(const char *)x, step == 1 ? vectors : 0, 4 * across, 4 * K};
}

/* A batch of products; done[i] is 1 where all values are finite, and C[i] (M x N, contiguous) is written.
 * Where a value is not finite the caller has the rules. Returns -1 without memory, else how many are not done. */
int ht_products(const float *a, int64_t a_step, int64_t a_across, int64_t a_batch, const float *b, int64_t b_step,
                int64_t b_across, int64_t b_batch, float *C, int64_t batch, int64_t M, int64_t N, int64_t K, int slices,
                int32_t *done, int engine) {
  Scan sa, sb;
  Room room = {.keep_b = batch > 1 && !b_batch};
  int status = scan_open(&sa, M) | scan_open(&sb, N), special_a = 0, special_b = 0, left = 0;
  for (int64_t i = 0; i < batch && status >= 0; i++) {
    Operand x = {a + i * a_batch, a_step, a_across}, y = {b + i * b_batch, b_step, b_across};
    if (a_batch) room.is_cut = 0;
    if (b_batch) room.b_is_cut = 0;
    if (!i || a_batch) special_a = scan_operand(x, M, K, &sa, engine);
    if (!i || b_batch) special_b = scan_operand(y, N, K, &sb, engine);
    done[i] = !special_a && !special_b;
    left += !done[i];
    if (!done[i]) continue;
    float *to = C + i * M * N;
    if (i + 1 < batch && a_batch) room.ahead[0] = ahead_of(x.data + a_batch, a_step, a_across, M, K);
    if (i + 1 < batch && b_batch) room.ahead[1] = ahead_of(y.data + b_batch, b_step, b_across, N, K);
    if (sa.wides || sb.wides) {
      status = mixed_product(x, y, to, M, N, K, slices, &sa, &sb, engine, &room);
      room.is_cut = room.b_is_cut = 0;
    }
    else status = some_product(sa.laid, sb.laid, to, N, M, N, K, slices, sa.exponent, sb.exponent, engine, &room);
  }
  scan_close(&sa), scan_close(&sb), free(room.data);
  return status < 0 ? status : left;
}

/* What one engine makes of a diagonal of digits: for the self-test at the bounds. a: [k][MR][4], b: [k][NR][4] + 64. */
void ht_diagonal(const uint8_t *a, const uint8_t *b, int64_t k4, int rows, int cols, int32_t *acc, int engine) {
  PICK_DIAGONAL(engine)(a, 0, b, 0, 0, k4, rows, cols, acc);
}

/* What an engine makes of whole planes of digits: top, end and low of a tile, [3][MR][NR], for the self-test. a: [plane][MR][4 k4],
 * b: [plane][k4][NR][4] + 64 (sums + 128), total: [MR][MAX_SLICES]. Returns 0 where the engine makes none, else 1. */
int ht_tile(const uint8_t *a, const uint8_t *b, int64_t k4, int slices, int with_sums, int rows, int cols, const int32_t *total,
            int32_t *out, int engine) {
#ifdef HT_X86
  int32_t sums[6 * MR * NR] __attribute__((aligned(64)));
  if (engine != ENGINE_VNNI) return 0;
  memset(sums, 0, sizeof sums);
  tile_vnni((Planes){(uint8_t *)a, MR * k4 * 4, k4 * 4}, (Planes){(uint8_t *)b, NR * k4 * 4, 0}, k4, slices, with_sums, rows, cols,
            sums, sums + MR * NR, sums + 2 * MR * NR, sums + 3 * MR * NR);
  for (int r = 0; r < MR; r++) {
    uint32_t in[3];
    offsets_of(total + r * MAX_SLICES, slices, with_sums, in);
    for (int i = 0; i < 3; i++)
      for (int c = 0; c < NR; c++) out[(i * MR + r) * NR + c] = (int32_t)((uint32_t)sums[(i * MR + r) * NR + c] - in[i]);
  }
  return 1;
#else
  (void)a, (void)b, (void)k4, (void)slices, (void)with_sums, (void)rows, (void)cols, (void)total, (void)out, (void)engine;
  return 0;
#endif
}

/* What an engine makes of planes of digits of few values, with scales of 1, for the self-test: out [rows][NR], each value the float32 of the
 * sum of D_d 128^(slices - 1 - d). a: [plane][k4][GROUP][4], b: [plane][k4][NR][4] + 64, total: [MAX_SLICES][GROUP]. Returns 0 where the
 * engine makes none, else 1. */
int ht_short(const uint8_t *a, const uint8_t *b, int64_t k4, int slices, int with_sums, int rows, int cols, const int32_t *total,
             float *out, int engine) {
#ifdef HT_X86
  if (engine != ENGINE_VNNI) return 0;
  short_test(a, b, k4, slices, with_sums, rows, cols, total, out);
  return 1;
#else
  (void)a, (void)b, (void)k4, (void)slices, (void)with_sums, (void)rows, (void)cols, (void)total, (void)out, (void)engine;
  return 0;
#endif
}

/* The same of the AVX2 engine, whose planes lie otherwise: see _avx2.h. a: [plane][k / 2][8][2], b: [2][plane][k / 2][8][2] with 128 times the
 * digit before in each, both int16. */
int ht_quad(const int16_t *a, const int16_t *b, int64_t pairs, int slices, int rows, int cols, float *out, int engine) {
#ifdef HT_X86
  double ones[16];
  for (int i = 0; i < 16; i++) ones[i] = 1.0;
  Quad at = {(const uint8_t *)a, (const uint8_t *)b, pairs * WORD, slices * pairs * WORD, NULL, NULL, 0, 1, 1, ones, ones};
  if (engine != ENGINE_AVX2) return 0;
  quad_avx2(&at, slices, rows, cols, out, 16);
  return 1;
#else
  (void)a, (void)b, (void)pairs, (void)slices, (void)rows, (void)cols, (void)out, (void)engine;
  return 0;
#endif
}
