/* Functions of one float64 argument, each operation as in _functions.py; included once for each instruction set.
 * Both sides of a choice are computed and one is taken, so that loops over them become vectors. */
#define POLY(name, c, first, n)                                   \
  static inline double FN(name)(double u) {                       \
    double p = c[n - 1];                                          \
    _Pragma("GCC unroll 16") for (int i = n - 2; i >= first; i--) \
      p = p * u + c[i];                                           \
    return p;                                                     \
  }
POLY(exp_poly, EXP, 0, 12)
POLY(expm1_poly, EXP, 1, 12)
POLY(log_poly, LOG, 0, 9)
POLY(erf_poly, ERF, 0, 12)
POLY(erfc_poly, ERFC, 0, 15)
POLY(sin_poly, SIN, 0, 8)
POLY(cos_poly, COS, 0, 8)
#undef POLY

#define MAGIC 6755399441055744.0 /* 1.5 * 2^52: adding it rounds to an integer, ties to even */

/* exp, for -700 <= x <= 700; beyond, the value at the bound: float32 has 0 or infinity there. */
static inline double FN(exp64)(double x) {
  x = x > 700.0 ? 700.0 : x;
  x = x < -700.0 ? -700.0 : x;
  double shifted = x * LOG2E + MAGIC, k = shifted - MAGIC;
  double r = (x - k * LN2[0]) - k * LN2[1];
  int64_t power = FN(to_bits)(shifted) - FN(to_bits)(MAGIC);
  return FN(exp_poly)(r) * FN(from_bits)((power + 1023) << 52);
}

/* exp64 of CUT numbers, in place: the steps of several vectors in turn, since each waits for the one before. */
#define CUT 32
#define CHAINS 4
#define EACH_CHAIN _Pragma("GCC unroll 4") for (int i = 0; i < CHAINS; i++)
static inline __attribute__((always_inline)) void FN(exp_many)(double *x) {
  for (double *at = x; at < x + CUT; at += CHAINS * WIDTH) {
    FN(doubles) y[CHAINS], k[CHAINS], r[CHAINS], p[CHAINS];
    FN(longs) power[CHAINS];
#if WIDTH == 8
    EACH_CHAIN y[i] = (FN(doubles))_mm512_min_pd(_mm512_set1_pd(700.0), _mm512_loadu_pd(at + i * WIDTH));
    EACH_CHAIN y[i] = (FN(doubles))_mm512_max_pd(_mm512_set1_pd(-700.0), (__m512d)y[i]);
#elif WIDTH == 4
    EACH_CHAIN y[i] = (FN(doubles))_mm256_min_pd(_mm256_set1_pd(700.0), _mm256_loadu_pd(at + i * WIDTH));
    EACH_CHAIN y[i] = (FN(doubles))_mm256_max_pd(_mm256_set1_pd(-700.0), (__m256d)y[i]);
#else
    for (int i = 0; i < CHAINS * WIDTH; i++) {
      double held = at[i] > 700.0 ? 700.0 : at[i];
      at[i] = held < -700.0 ? -700.0 : held;
    }
    EACH_CHAIN y[i] = FN(take_f64)(at + i * WIDTH);
#endif
    EACH_CHAIN k[i] = y[i] * LOG2E + MAGIC;
    EACH_CHAIN power[i] = (FN(longs))k[i] - FN(to_bits)(MAGIC);
    EACH_CHAIN k[i] = k[i] - MAGIC;
    EACH_CHAIN r[i] = (y[i] - k[i] * LN2[0]) - k[i] * LN2[1];
    EACH_CHAIN p[i] = r[i] * EXP[11] + EXP[10];
    _Pragma("GCC unroll 16") for (int c = 9; c >= 0; c--) EACH_CHAIN p[i] = p[i] * r[i] + EXP[c];
    EACH_CHAIN p[i] = p[i] * (FN(doubles))((power[i] + 1023) << 52);
    EACH_CHAIN memcpy(at + i * WIDTH, &p[i], sizeof p[i]);
  }
}
#undef EACH_CHAIN
#undef CHAINS

/* 2 atanh(f) = log((1 + f) / (1 - f)), |f| <= 0.172 */
static inline double FN(two_atanh)(double f) {
  double s = f * f;
  return 2.0 * f + f * (s * FN(log_poly)(s));
}

static inline double FN(log64)(double x) {
  int64_t b = FN(to_bits)(x), e = (b >> 52) - 1023;
  double m = FN(from_bits)((b & 0xfffffffffffffLL) | 0x3ff0000000000000LL);
  int64_t up = m > SQRT2 ? 1 : 0;
  m = up ? m * 0.5 : m;
  double k = FN(from_bits)(FN(to_bits)(MAGIC) + (e + up)) - MAGIC;
  double y = k * LN2[0] + (FN(two_atanh)((m - 1.0) / (m + 1.0)) + k * LN2[1]);
  y = x == INFINITY ? INFINITY : y;
  y = x == 0.0 ? -INFINITY : y;
  return x >= 0.0 ? y : NAN;
}

static inline double FN(log1p64)(double x) {
  double small = FN(two_atanh)(x / (2.0 + x)), y = FN(log64)(1.0 + x);
  y = (x < 0.25 && x > -0.25) ? small : y;
  return x == 0.0 ? x : y;
}

static inline double FN(expm164)(double x) {
  double small = x * FN(expm1_poly)(x), y = FN(exp64)(x) - 1.0;
  return (x < 0.25 && x > -0.25) ? small : y;
}

/* Functions of an exponential come in two parts, so that many exponentials can be computed together: the argument of exp,
 * and what becomes of x and e = exp of that argument. */
static inline double FN(itself)(double x) { return x; }
static inline double FN(exp_of)(double x, double e) { return (void)x, e; }

static inline double FN(tanh_argument)(double x) {
  double a = x < 0.0 ? -x : x;
  return a > 40.0 ? 80.0 : 2.0 * a;
}
static inline double FN(tanh_of)(double x, double e) {
  double a = x < 0.0 ? -x : x, s = x * x, large = (e - 1.0) / (e + 1.0);
  double small = x * (1.0 + s * (-0x1.5555555555555p-2 + s * 0x1.1111111111111p-3));
  large = x < 0.0 ? -large : large;
  double y = a < 0.015625 ? small : large;
  return x != x ? x : y;
}

static inline double FN(minus)(double x) { return -x; }
static inline double FN(sigmoid_of)(double x, double e) { return (void)x, 1.0 / (1.0 + e); }
static inline double FN(silu_of)(double x, double e) {
  double y = x * (1.0 / (1.0 + e));
  return x == -INFINITY ? -0.0 : y;
}
static inline double FN(silu_slope_of)(double x, double e) {
  double s = 1.0 / (1.0 + e), y = s * (1.0 + x * (1.0 - s));
  y = x == -INFINITY ? 0.0 : y;
  return x == INFINITY ? 1.0 : y;
}

/* erfc for a >= 1, a multiple of a decaying exponential; a is held at 28, where float32 has 0 */
static inline double FN(erfc_argument)(double a) {
  a = a < 1.0 ? 1.0 : a;
  a = a > 28.0 ? 28.0 : a;
  return -(a * a);
}
static inline double FN(erfc_far)(double a, double e) {
  a = a < 1.0 ? 1.0 : a;
  a = a > 28.0 ? 28.0 : a;
  double t = (a - 3.0) / (a + 3.0);
  return e * FN(erfc_poly)(t);
}
static inline double FN(erf_argument)(double x) { return FN(erfc_argument)(x < 0.0 ? -x : x); }
static inline double FN(erf_of)(double x, double e) {
  double a = x < 0.0 ? -x : x, far = 1.0 - FN(erfc_far)(a, e), near = x * FN(erf_poly)(x * x);
  far = x < 0.0 ? -far : far;
  double y = a < 1.0 ? near : far;
  return x != x ? x : y;
}
static inline double FN(erf64)(double x) { return FN(erf_of)(x, FN(exp64)(FN(erf_argument)(x))); }
/* The normal distribution function: erfc(-x / sqrt 2) / 2 without cancellation. */
static inline double FN(normal_argument)(double x) { return FN(erf_argument)(x * ROOT_HALF); }
static inline double FN(normal_below)(double x, double e) {
  double z = x * ROOT_HALF, a = z < 0.0 ? -z : z;
  double tail = 0.5 * FN(erfc_far)(a, e), near = 0.5 + 0.5 * (z * FN(erf_poly)(z * z));
  double far = z < 0.0 ? tail : 1.0 - tail, y = a < 1.0 ? near : far;
  return x != x ? x : y;
}
static inline double FN(gelu_of)(double x, double e) {
  double y = x * FN(normal_below)(x, e);
  return x == -INFINITY ? -0.0 : y;
}
static inline double FN(gelu64)(double x) { return FN(gelu_of)(x, FN(exp64)(FN(normal_argument)(x))); }
static inline double FN(gelu_slope64)(double x) {
  double held = x > 40.0 ? 40.0 : x;
  held = held < -40.0 ? -40.0 : held;
  double below = FN(normal_below)(x, FN(exp64)(FN(normal_argument)(x)));
  return below + held * (FN(exp64)(-0.5 * (held * held)) * INV_ROOT_2PI);
}

static inline double FN(rsqrt64)(double x) { return 1.0 / __builtin_sqrt(x); }

/* sin and cos for |x| < 2^27: k * HALF_PI[i] is exact, since k has 27 bits and the parts have 26. */
static inline double FN(turn)(double x, int64_t add) {
  double shifted = x * TWO_OVER_PI + MAGIC, k = shifted - MAGIC;
  double r = ((x - k * HALF_PI[0]) - k * HALF_PI[1]) - k * HALF_PI[2];
  r = r - k * HALF_PI[3];
  double s = r * r, sine = r + r * (s * FN(sin_poly)(s)), cosine = 1.0 + s * FN(cos_poly)(s);
  int64_t quarter = FN(to_bits)(shifted) - FN(to_bits)(MAGIC) + add;
  double y = (quarter & 1) ? cosine : sine;
  y = (quarter & 2) ? -y : y;
  double a = x < 0.0 ? -x : x;
  return a < 134217728.0 ? y : NAN;
}
static inline double FN(sin64)(double x) {
  double y = FN(turn)(x, 0);
  return x == 0.0 ? x : y;
}
static inline double FN(cos64)(double x) { return FN(turn)(x, 1); }
#undef MAGIC
