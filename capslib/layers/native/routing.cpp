// Passes of dynamic routing for processors: the samples of a batch lie side by side in the lanes of a vector register, votes
// live in a few kilobytes of cache and are computed anew in every pass. See capslib/layers/native/__init__.py for the caller.
//
// Letters as in routing.py. X = J * D rows of a vote; Bp = batch, padded to a multiple of the lanes; "tile" = one register of
// samples. Sums over input capsules are made in a fixed number of splits, so that the number of threads changes no result.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

template <typename T> struct Lanes;
template <> struct Lanes<float> {
  typedef float V __attribute__((vector_size(64), aligned(4), may_alias));
  typedef int32_t M __attribute__((vector_size(64)));
};
template <> struct Lanes<double> {
  typedef double V __attribute__((vector_size(64), aligned(8), may_alias));
  typedef int64_t M __attribute__((vector_size(64)));
};
template <typename T> using Vec = typename Lanes<T>::V;
template <typename T> constexpr int64_t L = 64 / sizeof(T);

template <typename T> inline Vec<T> load(const T *p) { return *(const Vec<T> *)p; }
template <typename T> inline void store(T *p, Vec<T> v) { *(Vec<T> *)p = v; }
template <typename T> inline Vec<T> larger(Vec<T> a, Vec<T> b) { return a > b ? a : b; }

// exp of values that are at most zero: two constants of ln 2, then a polynomial of degree 7; 2e-7 relative.
inline Vec<float> exponential(Vec<float> x) {
  typedef typename Lanes<float>::M M;
  x = larger<float>(x, Vec<float>{} - 87.0f);
  M k = __builtin_convertvector(x * 1.44269504f - 0.5f, M);  // rounds towards zero, and x <= 0
  Vec<float> whole = __builtin_convertvector(k, Vec<float>);
  Vec<float> r = x - whole * 0.693145751953125f;
  r = r - whole * 1.4286068203094172e-06f;
  Vec<float> p = Vec<float>{} + 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  M bits = (k + 127) << 23;
  Vec<float> power;
  std::memcpy(&power, &bits, sizeof(power));
  return p * power;
}

inline Vec<double> exponential(Vec<double> x) {
  for (int l = 0; l < 8; ++l) x[l] = std::exp(x[l]);
  return x;
}

// Sums over the lanes of sixteen (eight) vectors at once, in a tree of shuffles.
inline void lane_sums(Vec<float> *a, float *out, int64_t count) {
  typedef typename Lanes<float>::M M;
  static const M low[4] = {{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23},
                           {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27},
                           {0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29},
                           {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30}};
  int step = 0;
  for (int n = 16; n > 1; n /= 2, ++step) {
    const M first = low[step], second = first + (8 >> step);
    for (int k = 0; k < n / 2; ++k)
      a[k] = __builtin_shuffle(a[2 * k], a[2 * k + 1], first) + __builtin_shuffle(a[2 * k], a[2 * k + 1], second);
  }
  std::memcpy(out, a, count * sizeof(float));
}

inline void lane_sums(Vec<double> *a, double *out, int64_t count) {
  for (int64_t k = 0; k < count; ++k) {
    double sum = 0;
    for (int l = 0; l < 8; ++l) sum += a[k][l];
    out[k] = sum;
  }
}

template <typename T> struct Sizes {
  int64_t I, F, J, D, Bp;
  int64_t X() const { return J * D; }
  int64_t tiles() const { return Bp / L<T>; }
};

// Rows x to x + N of one input capsule's votes of one tile, on top of `a`: W[i] (X, F) times u[i] (F, lanes).
template <typename T, int FC, int N>
inline void multiply(const Sizes<T> &z, const T *w, const T *u, Vec<T> *a) {
  const int64_t F = FC ? FC : z.F;
#pragma GCC unroll 8
  for (int64_t f = 0; f < F; ++f) {
    const Vec<T> value = load(u + f * z.Bp);
#pragma GCC unroll 8
    for (int r = 0; r < N; ++r) a[r] += w[r * F + f] * value;
  }
}

// All of them: (X, lanes), on top of the bias; and on the way, where D allows, their products with one or two vectors p.
template <typename T, int FC, int K>
inline void vote(const Sizes<T> &z, const T *w, const T *u, const T *bias, T *votes, const T *const *p, Vec<T> *const *out) {
  const int64_t F = FC ? FC : z.F, X = z.X();
  int64_t x = 0;
  for (; x + 8 <= X; x += 8) {
    Vec<T> a[8];
    for (int r = 0; r < 8; ++r) a[r] = bias ? load(bias + (x + r) * L<T>) : Vec<T>{};
    multiply<T, FC, 8>(z, w + x * F, u, a);
    for (int k = 0; k < K; ++k) {
      Vec<T> one = x % z.D ? out[k][x / z.D] : Vec<T>{}, two{};
      for (int r = 0; r < 8; r += 2) {
        one += load(p[k] + (x + r) * L<T>) * a[r];
        two += load(p[k] + (x + r + 1) * L<T>) * a[r + 1];
      }
      out[k][x / z.D] = one + two;
    }
    for (int r = 0; r < 8; ++r) store(votes + (x + r) * L<T>, a[r]);
  }
  for (; x < X; ++x) {
    Vec<T> a = bias ? load(bias + x * L<T>) : Vec<T>{};
    multiply<T, FC, 1>(z, w + x * F, u, &a);
    store(votes + x * L<T>, a);
  }
}

// Votes from memory, (X, Bp), where they were made by a matrix product.
template <typename T> inline void fetch(const Sizes<T> &z, const T *from, const T *bias, T *votes) {
  for (int64_t x = 0; x < z.X(); ++x) {
    Vec<T> a = load(from + x * z.Bp);
    store(votes + x * L<T>, bias ? a + load(bias + x * L<T>) : a);
  }
}

// out[j] = sum over d of a[j, d] * votes[j, d]
template <typename T> inline void dots(const Sizes<T> &z, const T *a, const T *votes, Vec<T> *out) {
  for (int64_t j = 0; j < z.J; ++j) {
    Vec<T> one{}, two{};
    const int64_t x = j * z.D;
    int64_t d = 0;
    for (; d + 2 <= z.D; d += 2) {
      one += load(a + (x + d) * L<T>) * load(votes + (x + d) * L<T>);
      two += load(a + (x + d + 1) * L<T>) * load(votes + (x + d + 1) * L<T>);
    }
    if (d < z.D) one += load(a + (x + d) * L<T>) * load(votes + (x + d) * L<T>);
    out[j] = one + two;
  }
}

template <typename T> inline void softmax(const Sizes<T> &z, Vec<T> *c, Vec<T> mask) {
  Vec<T> top = c[0], sum{};
  for (int64_t j = 1; j < z.J; ++j) top = larger<T>(top, c[j]);
  for (int64_t j = 0; j < z.J; ++j) sum += c[j] = exponential(c[j] - top);
  const Vec<T> scale = mask / sum;
  for (int64_t j = 0; j < z.J; ++j) c[j] *= scale;
}

// to[j, d] += c[j] * votes[j, d]
template <typename T> inline void gather(const Sizes<T> &z, const Vec<T> *c, const T *votes, T *to) {
  for (int64_t j = 0; j < z.J; ++j)
    for (int64_t d = 0, x = j * z.D; d < z.D; ++d, ++x)
      store(to + x * L<T>, load(to + x * L<T>) + c[j] * load(votes + x * L<T>));
}

template <typename T> struct Inputs {
  const T *w, *u;       // (I, X, F), (I, F, Bp); or no w, and u the votes (I, X, Bp)
  const T *bias;        // (tiles, X, lanes) or null
  const T *prior;       // (I, J, Bp) or null
  const T *mask;        // (I, Bp) or null
  const T *v;           // (tiles, X, lanes): sum of earlier output capsules, or null in the first pass
};

// Votes of input i and one tile, their coupling c, and their products g with ds, where there is one.
template <typename T, int FC>
inline void row(const Sizes<T> &z, const Inputs<T> &in, int64_t i, int64_t tile, T *votes, Vec<T> *c, const T *ds, Vec<T> *g) {
  const int64_t X = z.X(), b = tile * L<T>;
  const T *bias = in.bias ? in.bias + tile * X * L<T> : nullptr;
  const T *p[2];
  Vec<T> *out[2];
  int count = 0;
  if (in.v) p[count] = in.v + tile * X * L<T>, out[count++] = c;
  if (ds) p[count] = ds + tile * X * L<T>, out[count++] = g;
  const bool fused = in.w && z.D % 8 == 0;
  if (in.w) {
    const T *w = in.w + i * X * z.F, *u = in.u + i * z.F * z.Bp + b;
    if (fused && count == 2)
      vote<T, FC, 2>(z, w, u, bias, votes, p, out);
    else if (fused && count == 1)
      vote<T, FC, 1>(z, w, u, bias, votes, p, out);
    else
      vote<T, FC, 0>(z, w, u, bias, votes, p, out);
  } else {
    fetch<T>(z, in.u + i * X * z.Bp + b, bias, votes);
  }
  if (!fused)
    for (int k = 0; k < count; ++k) dots<T>(z, p[k], votes, out[k]);
  if (!in.v)
    for (int64_t j = 0; j < z.J; ++j) c[j] = Vec<T>{};
  if (in.prior)
    for (int64_t j = 0; j < z.J; ++j) c[j] += load(in.prior + (i * z.J + j) * z.Bp + b);
  softmax<T>(z, c, in.mask ? load(in.mask + i * z.Bp + b) : Vec<T>{} + T(1));
}

// Scratch of one thread, on a cache line.
template <typename T> T *scratch(int64_t size) {
  static thread_local std::vector<T> buffer;
  if ((int64_t)buffer.size() < size + L<T>) buffer.resize(size + L<T>);
  return (T *)(((uintptr_t)buffer.data() + 63) / 64 * 64);
}

// Runs body(i, tile, split) over all input capsules and tiles; a split belongs to one thread.
template <typename Body> void sweep(int64_t I, int64_t tiles, int64_t splits, int threads, Body body) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t split = 0; split < splits; ++split) {
    for (int64_t i = I * split / splits; i < I * (split + 1) / splits; ++i)
      for (int64_t tile = 0; tile < tiles; ++tile) body(i, tile, split);
  }
}

// sums (splits, tiles, X, lanes) of coupled votes; coupling (I, J, Bp) on request
template <typename T, int FC>
void forward(Sizes<T> z, Inputs<T> in, T *sums, T *coupling, int64_t splits, int threads) {
  const int64_t X = z.X();
  if (in.w && !in.v && !in.prior && !in.bias && !in.mask && !coupling) {  // all votes count alike: sum while multiplying
    sweep(z.I, z.tiles(), splits, threads, [&](int64_t i, int64_t tile, int64_t split) {
      T *to = sums + (split * z.tiles() + tile) * X * L<T>;
      const T *w = in.w + i * X * z.F, *u = in.u + i * z.F * z.Bp + tile * L<T>;
      int64_t x = 0;
      for (; x + 8 <= X; x += 8) multiply<T, FC, 8>(z, w + x * z.F, u, (Vec<T> *)(to + x * L<T>));
      for (; x < X; ++x) multiply<T, FC, 1>(z, w + x * z.F, u, (Vec<T> *)(to + x * L<T>));
    });
    for (int64_t k = 0; k < splits * z.tiles() * X * L<T>; ++k) sums[k] /= T(z.J);
    return;
  }
  sweep(z.I, z.tiles(), splits, threads, [&](int64_t i, int64_t tile, int64_t split) {
    T *votes = scratch<T>((X + z.J) * L<T>);
    Vec<T> *c = (Vec<T> *)(votes + X * L<T>);
    row<T, FC>(z, in, i, tile, votes, c, nullptr, nullptr);
    gather<T>(z, c, votes, sums + (split * z.tiles() + tile) * X * L<T>);
    if (coupling)
      for (int64_t j = 0; j < z.J; ++j) store(coupling + (i * z.J + j) * z.Bp + tile * L<T>, c[j]);
  });
}

// From ds (tiles, X, lanes): coupling and gradient of the logits (I, J, Bp), and in sums the gradient of v.
template <typename T, int FC>
void backward(Sizes<T> z, Inputs<T> in, const T *ds, T *coupling, T *logits, T *sums, int64_t splits, int threads) {
  const int64_t X = z.X();
  sweep(z.I, z.tiles(), splits, threads, [&](int64_t i, int64_t tile, int64_t split) {
    T *votes = scratch<T>((X + 2 * z.J) * L<T>);
    Vec<T> *c = (Vec<T> *)(votes + X * L<T>), *g = c + z.J;
    row<T, FC>(z, in, i, tile, votes, c, logits ? ds : nullptr, g);
    T *to = coupling + i * z.J * z.Bp + tile * L<T>;
    for (int64_t j = 0; j < z.J; ++j) store(to + j * z.Bp, c[j]);
    if (!logits) return;
    Vec<T> mean{};
    for (int64_t j = 0; j < z.J; ++j) mean += c[j] * g[j];
    to = logits + i * z.J * z.Bp + tile * L<T>;
    for (int64_t j = 0; j < z.J; ++j) store(to + j * z.Bp, g[j] = c[j] * (g[j] - mean));
    gather<T>(z, g, votes, sums + (split * z.tiles() + tile) * X * L<T>);
  });
}

// Gradient of the votes of input i and one tile: a sum of terms factor[k] (I, J, Bp) times vector[k] (tiles, X, lanes).
template <typename T>
inline void dvote(const Sizes<T> &z, int64_t i, int64_t tile, int64_t terms, const T *const *factor,
                  const T *const *vector, T *to, int64_t stride) {
  const int64_t X = z.X();
  for (int64_t j = 0; j < z.J; ++j) {
    const int64_t x = j * z.D;
    int64_t d = 0;
    for (; d + 8 <= z.D; d += 8) {
      Vec<T> a[8] = {};
      for (int64_t k = 0; k < terms; ++k) {
        const Vec<T> f = load(factor[k] + (i * z.J + j) * z.Bp + tile * L<T>);
        const T *v = vector[k] + (tile * X + x + d) * L<T>;
        for (int r = 0; r < 8; ++r) a[r] += f * load(v + r * L<T>);
      }
      for (int r = 0; r < 8; ++r) store(to + (x + d + r) * stride, a[r]);
    }
    for (; d < z.D; ++d) {
      Vec<T> a{};
      for (int64_t k = 0; k < terms; ++k)
        a += load(factor[k] + (i * z.J + j) * z.Bp + tile * L<T>) * load(vector[k] + (tile * X + x + d) * L<T>);
      store(to + (x + d) * stride, a);
    }
  }
}

// From it the gradients of the matrices, dw (I, X, F), and the inputs, du (I, F, Bp); or itself, dvotes (I, X, Bp), without w.
template <typename T, int FC>
void finish(Sizes<T> z, const T *w, const T *u, int64_t terms, const T *const *factor, const T *const *vector, T *dw, T *du,
            T *dvotes, int threads) {
  const int64_t X = z.X(), tiles = z.tiles(), F = FC ? FC : z.F;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < z.I; ++i) {
    T *all = dvotes ? nullptr : scratch<T>(tiles * X * L<T>);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      if (dvotes) {
        dvote<T>(z, i, tile, terms, factor, vector, dvotes + i * X * z.Bp + tile * L<T>, z.Bp);
        continue;
      }
      T *g = all + tile * X * L<T>;
      dvote<T>(z, i, tile, terms, factor, vector, g, L<T>);
      Vec<T> a[FC ? FC : 16] = {};
      for (int64_t x = 0; x < X; ++x) {
        const Vec<T> value = load(g + x * L<T>);
        const T *line = w + (i * X + x) * F;
        for (int64_t f = 0; f < F; ++f) a[f] += line[f] * value;
      }
      for (int64_t f = 0; f < F; ++f) store(du + (i * F + f) * z.Bp + tile * L<T>, a[f]);
    }
    if (dvotes) continue;
    int64_t start = 0;
    if (FC && L<T> % (FC ? FC : 1) == 0) {  // a register of sums is a few whole rows of the matrix
      constexpr int64_t rows = L<T> / (FC ? FC : 1);
      for (; start + L<T> <= X * F; start += L<T>) {
        Vec<T> a[L<T>] = {};
        for (int64_t tile = 0; tile < tiles; ++tile) {
          const T *g = all + (tile * X + start / F) * L<T>, *in = u + i * F * z.Bp + tile * L<T>;
          for (int64_t f = 0; f < FC; ++f)
            for (int64_t r = 0; r < rows; ++r) a[r * FC + f] += load(g + r * L<T>) * load(in + f * z.Bp);
        }
        lane_sums(a, dw + i * X * F + start, L<T>);
      }
    }
    for (; start < X * F; start += L<T>) {
      const int64_t count = std::min<int64_t>(L<T>, X * F - start);
      Vec<T> a[L<T>] = {};
      for (int64_t tile = 0; tile < tiles; ++tile)
        for (int64_t k = 0; k < count; ++k)
          a[k] += load(all + (tile * X + (start + k) / F) * L<T>) * load(u + (i * F + (start + k) % F) * z.Bp + tile * L<T>);
      lane_sums(a, dw + i * X * F + start, count);
    }
  }
}

}  // namespace

#define EXPORT(T, NAME)                                                                                                 \
  extern "C" void forward_##NAME(const int64_t *n, const T *w, const T *u, const T *bias, const T *prior, const T *mask, \
                                 const T *v, T *sums, T *coupling) {                                                    \
    Sizes<T> z{n[0], n[1], n[2], n[3], n[4]};                                                                           \
    (n[1] == 8 ? forward<T, 8> : forward<T, 0>)(z, {w, u, bias, prior, mask, v}, sums, coupling, n[5], (int)n[6]);        \
  }                                                                                                                     \
  extern "C" void backward_##NAME(const int64_t *n, const T *w, const T *u, const T *bias, const T *prior,               \
                                  const T *mask, const T *v, const T *ds, T *coupling, T *logits, T *sums) {             \
    Sizes<T> z{n[0], n[1], n[2], n[3], n[4]};                                                                           \
    (n[1] == 8 ? backward<T, 8> : backward<T, 0>)(z, {w, u, bias, prior, mask, v}, ds, coupling, logits, sums, n[5],      \
                                                  (int)n[6]);                                                           \
  }                                                                                                                     \
  extern "C" void finish_##NAME(const int64_t *n, const T *w, const T *u, int64_t terms, const T *const *factor,         \
                                const T *const *vector, T *dw, T *du, T *dvotes) {                                      \
    Sizes<T> z{n[0], n[1], n[2], n[3], n[4]};                                                                           \
    (n[1] == 8 ? finish<T, 8> : finish<T, 0>)(z, w, u, terms, factor, vector, dw, du, dvotes, (int)n[6]);                \
  }
EXPORT(float, float)
EXPORT(double, double)
