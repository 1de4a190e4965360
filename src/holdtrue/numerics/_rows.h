/* Included by _kernels.c once for each instruction set: norms and softmax, each operation as in _norms.py and
 * _reductions.py. x is [N][C][L]; statistics belong to c and run over N and L in row-major order. */

/* Mean and mean square about it, of each c. `line` holds N * L numbers. */
static void FN(moments)(const float *x, double *mean, double *square, int64_t N, int64_t C, int64_t L, double *line) {
  double n = (double)(N * L);
  for (int64_t c = 0; c < C; c++) {
    for (int64_t i = 0; i < N; i++) {
      const float *from = x + (i * C + c) * L;
      double *to = line + i * L;
      for (int64_t j = 0; j < L; j++) to[j] = (double)from[j];
    }
    double m = FN(row_f64)(line, N * L) / n;
    for (int64_t j = 0; j < N * L; j++) {
      double apart = line[j] - m;
      line[j] = apart * apart;
    }
    mean[c] = m, square[c] = FN(row_f64)(line, N * L) / n;
  }
}

/* (x - mean) * scale * weight + bias; weight and bias belong to c (per_c) or to the place in L. */
static void FN(normalise)(const float *x, float *y, int64_t N, int64_t C, int64_t L, const double *mean, const double *scale,
                          const float *weight, const float *bias, int per_c) {
  for (int64_t i = 0; i < N; i++)
    for (int64_t c = 0; c < C; c++) {
      const float *from = x + (i * C + c) * L;
      float *to = y + (i * C + c) * L;
      double m = mean[c], s = scale[c];
      if (!weight && !bias)
        for (int64_t j = 0; j < L; j++) to[j] = (float)(((double)from[j] - m) * s);
      else if (per_c) {
        double w = weight ? (double)weight[c] : 1.0, b = bias ? (double)bias[c] : -0.0; /* v * 1 and v + -0 are v */
        for (int64_t j = 0; j < L; j++) to[j] = (float)(((double)from[j] - m) * s * w + b);
      } else if (weight && bias)
        for (int64_t j = 0; j < L; j++) to[j] = (float)(((double)from[j] - m) * s * (double)weight[j] + (double)bias[j]);
      else
        for (int64_t j = 0; j < L; j++)
          to[j] = (float)(((double)from[j] - m) * s * (weight ? (double)weight[j] : 1.0) + (bias ? (double)bias[j] : -0.0));
    }
}

/* Gradients of x, and where per_c of weight and bias; with `along` the products of gradient and normalised value.
 * `room` holds 3 * N * L numbers. */
static void FN(normalise_back)(const float *grad, const float *x, int64_t N, int64_t C, int64_t L, const double *mean,
                               const double *scale, const float *weight, int per_c, float *gx, double *gw, double *gb,
                               double *along, double *room) {
  int64_t n = N * L;
  double *into = room, *hat = room + n, *line = room + 2 * n;
  for (int64_t c = 0; c < C; c++) {
    double m = mean[c], s = scale[c], w = per_c && weight ? (double)weight[c] : 1.0;
    for (int64_t i = 0; i < N; i++) {
      const float *g = grad + (i * C + c) * L, *from = x + (i * C + c) * L;
      double *h = hat + i * L, *t = into + i * L;
      for (int64_t j = 0; j < L; j++) h[j] = ((double)from[j] - m) * s;
      for (int64_t j = 0; j < L; j++) t[j] = (double)g[j];
    }
    if (along)
      for (int64_t i = 0; i < N; i++)
        for (int64_t j = 0; j < L; j++) along[(i * C + c) * L + j] = into[i * L + j] * hat[i * L + j];
    if (gb) gb[c] = FN(row_f64)(into, n);
    if (gw) {
      for (int64_t j = 0; j < n; j++) line[j] = into[j] * hat[j];
      gw[c] = FN(row_f64)(line, n);
    }
    if (!gx) continue;
    if (weight && per_c)
      for (int64_t j = 0; j < n; j++) into[j] = into[j] * w;
    else if (weight)
      for (int64_t i = 0; i < N; i++)
        for (int64_t j = 0; j < L; j++) into[i * L + j] = into[i * L + j] * (double)weight[j];
    double about = FN(row_f64)(into, n) / (double)n;
    for (int64_t j = 0; j < n; j++) line[j] = into[j] * hat[j];
    double turn = FN(row_f64)(line, n) / (double)n;
    for (int64_t i = 0; i < N; i++) {
      float *to = gx + (i * C + c) * L;
      const double *h = hat + i * L, *t = into + i * L;
      for (int64_t j = 0; j < L; j++) to[j] = (float)(((t[j] - about) - h[j] * turn) * s);
    }
  }
}

static inline double FN(exp_or_0)(double y) {
  double e = FN(exp64)(y);
  return y < -700.0 ? 0.0 : e;
}

/* Softmax, or its logarithm, of each row. `line` holds n numbers. */
static void FN(softmax)(const float *x, float *y, int64_t rows, int64_t n, int is_log, double *line) {
  for (int64_t r = 0; r < rows; r++, x += n, y += n) {
    float top = x[0];
    int is_nan = 0;
    for (int64_t j = 0; j < n; j++) top = x[j] > top ? x[j] : top, is_nan |= x[j] != x[j];
    double m = is_nan ? NAN : (double)top;
    for (int64_t j = 0; j < n; j++) line[j] = FN(exp_or_0)((double)x[j] - m);
    double sum = FN(row_f64)(line, n);
    if (is_log) {
      double low = FN(log64)(sum);
      for (int64_t j = 0; j < n; j++) y[j] = (float)(((double)x[j] - m) - low);
    } else
      for (int64_t j = 0; j < n; j++) y[j] = (float)(line[j] / sum);
  }
}

/* Gradient of the above from its result. */
static void FN(softmax_back)(const float *grad, const float *y, float *gx, int64_t rows, int64_t n, int is_log, double *line) {
  for (int64_t r = 0; r < rows; r++, grad += n, y += n, gx += n) {
    for (int64_t j = 0; j < n; j++) line[j] = is_log ? (double)grad[j] : (double)grad[j] * (double)y[j];
    double sum = FN(row_f64)(line, n);
    if (is_log)
      for (int64_t j = 0; j < n; j++) gx[j] = (float)((double)grad[j] - FN(exp_or_0)((double)y[j]) * sum);
    else
      for (int64_t j = 0; j < n; j++) gx[j] = (float)(((double)grad[j] - sum) * (double)y[j]);
  }
}
