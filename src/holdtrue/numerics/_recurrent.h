/* A direction of a recurrent layer over all its steps, forward and backward: the operations of _composites.py in their order,
 * each rounded once to float32, so with their bits. T steps, N sequences, H features of the state, G gates of H features.
 *
 *   lstm  act i f g o, more tanh(c);  c' = f c + i g, h' = o tanh(c')
 *   gru   act r z n, more hn;         n = tanh(xn + r hn), h' = n + z (h - n)
 *   rnn   h' = tanh or relu
 *
 * Digits of the recurrent weight are cut once for all steps. Each function returns 1 where a value is not finite: the caller
 * then runs the operators one by one. -1: no memory. */

enum { LSTM, GRU, RNN_TANH, RNN_RELU };

static const int GATES[] = {4, 3, 1, 1};

/* A product whose second operand, and what is known of it, is kept from call to call. */
typedef struct {
  Scan a, b;
  Room room;
  int is_open;
} Repeated;

static int repeated_open(Repeated *p, int64_t M, int64_t N) {
  memset(p, 0, sizeof *p);
  p->room.keep_b = 1;
  return scan_open(&p->a, M) | scan_open(&p->b, N);
}
static void repeated_close(Repeated *p) { scan_close(&p->a), scan_close(&p->b), free(p->room.data); }

static int repeated_product(Repeated *p, Operand a, Operand b, float *C, int64_t M, int64_t N, int64_t K, int slices, int engine) {
  if (!p->is_open && scan_operand(b, N, K, &p->b, engine)) return 1;
  if (scan_operand(a, M, K, &p->a, engine)) return 1;
  p->is_open = 1, p->room.is_cut = 0;
  if (!p->a.wides && !p->b.wides)
    return some_product(p->a.laid, p->b.laid, C, N, M, N, K, slices, p->a.exponent, p->b.exponent, engine, &p->room);
  int status = mixed_product(a, b, C, M, N, K, slices, &p->a, &p->b, engine, &p->room);
  p->room.is_cut = p->room.b_is_cut = 0;
  return status;
}

/* Gates and state of one step from what comes in (x), the product with the state and the bias (both in `line`, [N][G H]). */
static void step_forward(int kind, const float *x, float *line, const float *h, const float *c, float *out, float *cell, float *act,
                         float *more, int64_t N, int64_t H, int engine) {
  int64_t G = GATES[kind] * H;
  for (int64_t n = 0; n < N; n++, x += G, line += G, h += H, out += H, act += act ? G : 0) {
    if (kind == LSTM) {
      for (int64_t j = 0; j < G; j++) line[j] = x[j] + line[j];
      PICK(engine, sigmoid_f32)(line, act, 2 * H);
      PICK(engine, tanh_f32)(line + 2 * H, act + 2 * H, H);
      PICK(engine, sigmoid_f32)(line + 3 * H, act + 3 * H, H);
      for (int64_t j = 0; j < H; j++) {
        float kept = act[H + j] * c[j], added = act[j] * act[2 * H + j];
        cell[j] = kept + added;
      }
      PICK(engine, tanh_f32)(cell, more, H);
      for (int64_t j = 0; j < H; j++) out[j] = act[3 * H + j] * more[j];
      c += H, cell += H, more += H;
    } else if (kind == GRU) {
      for (int64_t j = 0; j < 2 * H; j++) line[j] = x[j] + line[j];
      PICK(engine, sigmoid_f32)(line, act, 2 * H);
      memcpy(more, line + 2 * H, sizeof(float) * (size_t)H);
      for (int64_t j = 0; j < H; j++) {
        float reset = act[j] * more[j];
        line[j] = x[2 * H + j] + reset;
      }
      PICK(engine, tanh_f32)(line, act + 2 * H, H);
      for (int64_t j = 0; j < H; j++) {
        float apart = h[j] - act[2 * H + j], part = act[H + j] * apart;
        out[j] = act[2 * H + j] + part;
      }
      more += H;
    } else {
      for (int64_t j = 0; j < H; j++) line[j] = x[j] + line[j];
      if (kind == RNN_TANH) PICK(engine, tanh_f32)(line, out, H);
      else
        for (int64_t j = 0; j < H; j++) out[j] = line[j] <= 0.0f ? 0.0f : line[j];
    }
  }
}

/* gates [T][N][G H] (the product of x and its bias), w [G H][H], bias [G H] or NULL, h0 and c0 [N][H]. Written: out and cells
 * [T][N][H], act [T][N][G H], more [T][N][H], as the kind has them. */
int ht_recurrent(int kind, const float *gates, const float *w, const float *bias, const float *h0, const float *c0, float *out,
                 float *cells, float *act, float *more, int64_t T, int64_t N, int64_t H, int backwards, int slices, int engine) {
  int64_t G = GATES[kind] * H, size = N * H;
  float *line = malloc(sizeof(float) * (size_t)(N * G));
  Repeated p;
  int status = repeated_open(&p, N, G) | (line ? 0 : -1);
  const float *h = h0, *c = c0;
  for (int64_t s = 0; s < T && !status; s++) {
    int64_t t = backwards ? T - 1 - s : s;
    status = repeated_product(&p, (Operand){h, 1, H}, (Operand){w, 1, H}, line, N, G, H, slices, engine);
    if (status) break;
    if (bias)
      for (int64_t n = 0; n < N; n++)
        for (int64_t j = 0; j < G; j++) line[n * G + j] = line[n * G + j] + bias[j];
    step_forward(kind, gates + t * N * G, line, h, c, out + t * size, cells ? cells + t * size : NULL, act ? act + t * N * G : NULL,
                 more ? more + t * size : NULL, N, H, engine);
    h = out + t * size, c = cells ? cells + t * size : NULL;
  }
  repeated_close(&p), free(line);
  return status;
}

/* Gradients of one step's gates (`into`: of the product with the state; `d_x`: of what came in, which differs for GRU) from those
 * of its state, gh and (LSTM) gc, which becomes that of the state before. For GRU gh becomes the part that passes by the gates. */
static void step_back(int kind, float *gh, float *gc, int has_gc, const float *h, const float *c, const float *out, const float *act,
                      const float *more, float *into, float *d_x, int64_t N, int64_t H) {
  int64_t G = GATES[kind] * H;
  for (int64_t n = 0; n < N; n++, gh += H, gc += kind == LSTM ? H : 0, h += H, out += H, into += G, d_x += G) {
    if (kind == LSTM) {
      const float *i = act, *f = act + H, *g = act + 2 * H, *o = act + 3 * H;
      for (int64_t j = 0; j < H; j++) {
        float d_o = gh[j] * more[j], d_tanh = gh[j] * o[j], square = more[j] * more[j];
        float d_c = d_tanh * (1.0f - square);
        if (has_gc) d_c = gc[j] + d_c;
        float d_f = d_c * c[j], d_i = d_c * g[j], d_g = d_c * i[j], square_g = g[j] * g[j];
        gc[j] = d_c * f[j];
        into[j] = d_i * ((1.0f - i[j]) * i[j]);
        into[H + j] = d_f * ((1.0f - f[j]) * f[j]);
        into[2 * H + j] = d_g * (1.0f - square_g);
        into[3 * H + j] = d_o * ((1.0f - o[j]) * o[j]);
      }
      act += G, more += H, c += H;
      memcpy(d_x, into, sizeof(float) * (size_t)G);
    } else if (kind == GRU) {
      const float *r = act, *z = act + H, *m = act + 2 * H;
      for (int64_t j = 0; j < H; j++) {
        float d_z = gh[j] * (h[j] - m[j]), past = gh[j] * z[j], square = m[j] * m[j];
        float d_n = (gh[j] - past) * (1.0f - square), d_r = d_n * more[j];
        into[j] = d_x[j] = d_r * ((1.0f - r[j]) * r[j]);
        into[H + j] = d_x[H + j] = d_z * ((1.0f - z[j]) * z[j]);
        into[2 * H + j] = d_n * r[j], d_x[2 * H + j] = d_n;
        gh[j] = past;
      }
      act += G, more += H;
    } else {
      for (int64_t j = 0; j < H; j++) {
        float square = out[j] * out[j];
        into[j] = kind == RNN_TANH ? gh[j] * (1.0f - square) : out[j] <= 0.0f ? 0.0f : gh[j];
        d_x[j] = into[j];
      }
    }
  }
}

/* Gradients from those of out (NULL: none), of the last state (NULL: none) and of the last cell (NULL: none). Written: d_gates
 * [T][N][G H]; unless NULL d_w [T][G H][H] and d_bias [T][G H], the last step first; d_past (GRU: what of h0 passes by the gates),
 * d_h0 and d_c0 [N][H]. */
int ht_recurrent_back(int kind, const float *g_out, const float *g_h, const float *g_c, const float *w, const float *h0,
                      const float *c0, const float *out, const float *cells, const float *act, const float *more, float *d_gates,
                      float *d_w, float *d_bias, float *d_past, float *d_h0, float *d_c0, int64_t T, int64_t N, int64_t H,
                      int backwards, int slices, int engine) {
  int64_t G = GATES[kind] * H, size = N * H;
  float *gh = malloc(sizeof(float) * (size_t)size), *into = malloc(sizeof(float) * (size_t)(N * G));
  double *sums = malloc(sizeof(double) * (size_t)G);
  Repeated p, q;
  int status = repeated_open(&p, N, H) | repeated_open(&q, G, H) | (gh && into && sums ? 0 : -1);
  for (int64_t s = T - 1; s >= 0 && !status; s--) {
    int64_t t = backwards ? T - 1 - s : s, before = backwards ? t + 1 : t - 1;
    const float *from = g_out ? g_out + t * size : NULL, *h = s ? out + before * size : h0;
    if (s == T - 1) {
      if (from && g_h)
        for (int64_t i = 0; i < size; i++) gh[i] = from[i] + g_h[i];
      else memcpy(gh, from ? from : g_h, sizeof(float) * (size_t)size);
      if (kind == LSTM && g_c) memcpy(d_c0, g_c, sizeof(float) * (size_t)size);
    } else {
      /* in the order in which autograd meets them: out, what passes by the gates, what comes through them */
      if (from && kind == GRU)
        for (int64_t i = 0; i < size; i++) gh[i] = from[i] + d_past[i];
      else if (kind == GRU) memcpy(gh, d_past, sizeof(float) * (size_t)size);
      else if (from) memcpy(gh, from, sizeof(float) * (size_t)size);
      if (from || kind == GRU)
        for (int64_t i = 0; i < size; i++) gh[i] = gh[i] + d_h0[i];
      else memcpy(gh, d_h0, sizeof(float) * (size_t)size);
    }
    float *d_x = d_gates + t * N * G;
    step_back(kind, gh, d_c0, s < T - 1 || g_c, h, cells ? (s ? cells + before * size : c0) : NULL, out + t * size,
              act ? act + t * N * G : NULL, more ? more + t * size : NULL, into, d_x, N, H);
    if (kind == GRU) memcpy(d_past, gh, sizeof(float) * (size_t)size);
    if (T > 1) /* autograd adds the zeros of the other steps' slices */
      for (int64_t i = 0; i < N * G; i++) d_x[i] = d_x[i] + 0.0f;
    status = repeated_product(&p, (Operand){into, 1, G}, (Operand){w, H, 1}, d_h0, N, H, G, slices, engine);
    if (!status && d_w) {
      q.is_open = q.room.b_is_cut = 0; /* another state */
      status = repeated_product(&q, (Operand){into, G, 1}, (Operand){h, H, 1}, d_w + (T - 1 - s) * G * H, G, H, N, slices, engine);
    }
    if (!status && d_bias) {
      PICK(engine, sum_f32)(into, sums, 1, N, G);
      for (int64_t j = 0; j < G; j++) d_bias[(T - 1 - s) * G + j] = (float)sums[j];
    }
  }
  repeated_close(&p), repeated_close(&q), free(gh), free(into), free(sums);
  return status;
}
