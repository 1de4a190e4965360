/* The matrix product, defined by integers (see _matmul.py for the definition and docs/design/0040).
 *
 * C[i,j] = sum over k of A[i,k] B[k,j]; each row of A and each column of B is a "vector" with a power-of-two scale,
 * and S digits per value, |q| <= 64, digit s of weight 2^-(6+7s).
 *
 * Overflow. A diagonal d adds d+1 <= 6 products of digits over at most PIECE = 65536 values: at most
 * 6 * 64 * 64 * 65536 = 1,610,612,736 < 2^31, so int32 holds it. The kernels multiply (q+64) in 0..128 by q: the sum
 * with the offset may wrap, and subtracting 64 * (sum of q) wraps back, exactly, modulo 2^32. Where AVX2 does this (K > PIECE; below that
 * see _avx2.h) a pair is at most 2 * 128 * 64 = 16384 in magnitude, below the 32767 at which vpmaddubsw saturates.
 */
#define PIECE 65536
#define MR 12
#define NR 32
#define MAX_SLICES 6
#define SHORT 1024 /* values of which 128 D_0 + D_1 and 128 D_2 + D_3 fit int32 */
#define GROUP 16   /* vectors that are cut together where a register holds 16 values */

typedef struct {
  const float *data;
  int64_t step, across; /* floats from k to k+1, and from vector to vector */
} Operand;

/* How many values of a vector are not zero, at least an eighth of the largest, and below 2^-8 of it. */
typedef struct {
  int32_t some, large, tiny;
} Spread;

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
