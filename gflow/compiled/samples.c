/* Sums and roots over the samples of single-index DEQs, a block of samples of one row at a time. */

enum { PIECE = 256, SIDE = 4 };

#define SHORT 0.1

typedef struct {
    int64_t samples, block, inputs, rows_of_x;
    double bend, tolerance;
    const double *x, *theta, *upright, *steep, *start, *known_value, *known_slope;
    const double *output, *first, *second;
    double *point, *value, *slope, *sums;
    unsigned char *lost;
} Job;

static inline lanes load(const double *from, int64_t count) {
    lanes x;
    if (count >= LANES) {
        memcpy(&x, from, sizeof x);
        return x;
    }
    for (int l = 0; l < LANES; l++) x[l] = from[l < count ? l : 0];
    return x;
}

static inline void keep(double *to, lanes x, int64_t count) {
    memcpy(to, &x, (count < LANES ? count : LANES) * sizeof(double));
}

static inline double largest(lanes x) {
    double most = x[0];
    for (int l = 1; l < LANES; l++) most = x[l] > most ? x[l] : most;
    return most;
}

static inline double total(lanes x) {
    double sum = 0;
    for (int l = 0; l < LANES; l++) sum += x[l];
    return sum;
}

/* (exp(2|x|) - 1) / (exp(2|x|) + 1) with the sign of x. The exponential is 2^k exp(r) with |r| at
   most log(2)/2, and exp(r) - 1 its Taylor polynomial of degree 14, whose remainder is below 1e-18
   of it. Beyond 22 the quotient is 1. */
static inline lanes hyperbolic(lanes x) {
    const lanes magnitude = size_of(x), limit = 22 + (lanes){0};
    const lanes z = 2 * chosen(magnitude > limit, limit, magnitude);
    const lanes shifted = z * 0x1.71547652b82fep+0 + 0x1.8p52, k = shifted - 0x1.8p52;
    const lanes r = (z - k * 0x1.62e42fefa3800p-1) - k * 0x1.ef35793c76730p-45;
    lanes sum = 1 / 87178291200.0 + (lanes){0};
    sum = sum * r + 1 / 6227020800.0, sum = sum * r + 1 / 479001600.0;
    sum = sum * r + 1 / 39916800.0, sum = sum * r + 1 / 3628800.0;
    sum = sum * r + 1 / 362880.0, sum = sum * r + 1 / 40320.0;
    sum = sum * r + 1 / 5040.0, sum = sum * r + 1 / 720.0;
    sum = sum * r + 1 / 120.0, sum = sum * r + 1 / 24.0;
    sum = sum * r + 1 / 6.0, sum = sum * r + 0.5;
    const lanes grown = r + r * r * sum;
    const lanes power = (lanes)(((bits)shifted + 1023) << 52);
    const lanes less = power * grown + (power - 1);
    const lanes found = less / (less + 2);
    return (lanes)((bits)found | ((bits)x & ~0x7fffffffffffffffLL));
}

/* tanh(s - move) from t = tanh(s), by the addition theorem; what is left out is below 1e-14 of a
   move up to SHORT. */
static inline lanes moved(lanes t, lanes move) {
    const lanes square = move * move;
    lanes sum = -1382 / 155925.0 + (lanes){0};
    sum = sum * square + 62 / 2835.0, sum = sum * square - 17 / 315.0;
    sum = sum * square + 2 / 15.0, sum = sum * square - 1 / 3.0;
    const lanes own = move + move * square * sum;
    return (t - own) / (1 - t * own);
}

/* Newton for s - linear - theta2 sigma(s) with sigma(s) = upright s + steep tanh(s), as
   gflow.equilibrium.solvers.tracking_newton, for SIDE vectors of samples side by side: one alone
   would wait for its own divisions. The last value is a function of the point alone, so that a
   flow that is gone on with has the same. */
static inline int tracked(const Job *job, int64_t row, int64_t at, int64_t count,
                          const double *given) {
    const double theta2 = job->theta[(row + 1) * (job->inputs + 1) - 1], upright = job->upright[row], steep = job->steep[row];
    lanes linear[SIDE], s[SIDE], value[SIDE], slope[SIDE];
    int64_t place[SIDE], width[SIDE];
    for (int q = 0; q < SIDE; q++) {
        const int64_t ahead = q * LANES < count ? q * LANES : 0;
        place[q] = at + ahead, width[q] = count - ahead;
        linear[q] = load(given + ahead, width[q]);
        s[q] = job->start ? load(job->start + place[q], width[q]) : linear[q];
    }
    for (int q = 0; q < SIDE; q++) {
        if (job->known_value) {
            value[q] = load(job->known_value + place[q], width[q]);
            slope[q] = load(job->known_slope + place[q], width[q]);
        } else {
            const lanes t = hyperbolic(s[q]);
            value[q] = upright * s[q] + steep * t, slope[q] = upright + steep * (1 - t * t);
        }
    }
    for (int i = 0; i < 7; i++) {
        lanes step[SIDE], sizes = {0}, all = {0};
        for (int q = 0; q < SIDE; q++) {
            step[q] = (s[q] - linear[q] - theta2 * value[q]) / (1 - theta2 * slope[q]);
            sizes = larger(size_of(step[q]), sizes), all += size_of(step[q]);
        }
        const double size = largest(sizes);
        if (!isfinite(total(all))) return 0;
        const int here = size <= job->tolerance;
        const int last = here || (size <= NEAR && job->bend * size * size <= job->tolerance);
        for (int q = 0; q < SIDE; q++) {
            const lanes move = here ? (lanes){0} : step[q];
            const lanes before = (value[q] - upright * s[q]) / steep;
            s[q] -= move;
            const lanes t = last || size > SHORT ? hyperbolic(s[q]) : moved(before, move);
            value[q] = upright * s[q] + steep * t, slope[q] = upright + steep * (1 - t * t);
        }
        if (!last) continue;
        for (int q = 0; q < SIDE; q++) {
            keep(job->point + place[q], s[q], width[q]);
            keep(job->value + place[q], value[q], width[q]);
            keep(job->slope + place[q], slope[q], width[q]);
        }
        return 1;
    }
    return 0;
}

typedef struct {
    int64_t row, from, end;
    const double *x;
} Block;

static inline Block block_of(const Job *job, int64_t number) {
    const int64_t blocks = (job->samples + job->block - 1) / job->block, row = number / blocks;
    const int64_t from = number % blocks * job->block, end = from + job->block;
    const double *x = job->x + (job->rows_of_x == 1 ? 0 : row * job->inputs * job->samples);
    return (Block){row, from, end < job->samples ? end : job->samples, x};
}

void track(const Job *job, int64_t next, int64_t last) {
    const int64_t d = job->inputs, n = job->samples;
    double linear[PIECE];
    for (; next < last; next++) {
        const Block of = block_of(job, next);
        const double *theta = job->theta + of.row * (d + 1);
        int found = 1;
        for (int64_t at = of.from; found && at < of.end; at += PIECE) {
            const int64_t count = of.end - at < PIECE ? of.end - at : PIECE;
            memset(linear, 0, sizeof linear);
            for (int64_t j = 0; j < d; j++)
                for (int64_t k = 0; k < count; k++) linear[k] += theta[j] * of.x[j * n + at + k];
            for (int64_t k = 0; found && k < count; k += SIDE * LANES)
                found = tracked(job, of.row, of.row * n + at + k, count - k, linear + k);
        }
        job->lost[next] = !found;
    }
}

static inline double inner(const double *a, const double *b, int64_t count) {
    lanes sums[4] = {{0}};
    int64_t k = 0;
    for (; k + 4 * LANES <= count; k += 4 * LANES)
        for (int q = 0; q < 4; q++)
            sums[q] += load(a + k + q * LANES, LANES) * load(b + k + q * LANES, LANES);
    const lanes sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    double rest = 0;
    for (; k < count; k++) rest += a[k] * b[k];
    return total(sum) + rest;
}

/* Component j of w_i = (x_i, output_i) from sample `at` on; inputs lie one component after the
   other. */
static inline const double *component(const Job *job, const Block *of, int64_t j, int64_t at) {
    const int64_t n = job->samples;
    return j < job->inputs ? of->x + j * n + at : job->output + of->row * n + at;
}

/* sum_i first_i slope_i r_i w_i with w_i = (x_i, output_i), r = 1 / (1 - theta2 slope), of each block of a row. */
void pull(const Job *job, int64_t next, int64_t last) {
    const int64_t size = job->inputs + 1;
    double weights[PIECE];
    for (; next < last; next++) {
        const Block of = block_of(job, next);
        const double theta2 = job->theta[(of.row + 1) * size - 1];
        double *sums = job->sums + next * size;
        memset(sums, 0, size * sizeof(double));
        for (int64_t at = of.from; at < of.end; at += PIECE) {
            const int64_t count = of.end - at < PIECE ? of.end - at : PIECE;
            const int64_t place = of.row * job->samples + at;
            const double *first = job->first + place, *slope = job->known_slope + place;
            for (int64_t k = 0; k < count; k++)
                weights[k] = first[k] * slope[k] / (1 - theta2 * slope[k]);
            for (int64_t j = 0; j < size; j++)
                sums[j] += inner(weights, component(job, &of, j, at), count);
        }
    }
}

/* sum_i alpha_i w_i w_i^T + beta_i (w_i e_P^T + e_P w_i^T) of each block of a row, with
   alpha = second p^2 + first curvature r^3, beta = first p^2 and p = slope r. */
void bend(const Job *job, int64_t next, int64_t last) {
    const int64_t d = job->inputs, size = d + 1;
    double alpha[PIECE], beta[PIECE], weighted[PIECE];
    for (; next < last; next++) {
        const Block of = block_of(job, next);
        const double theta2 = job->theta[(of.row + 1) * size - 1];
        double *matrix = job->sums + next * size * size;
        memset(matrix, 0, size * size * sizeof(double));
        for (int64_t at = of.from; at < of.end; at += PIECE) {
            const int64_t count = of.end - at < PIECE ? of.end - at : PIECE;
            const int64_t place = of.row * job->samples + at;
            const double *first = job->first + place, *second = job->second + place;
            const double *slope = job->known_slope + place, *s = job->start + place;
            const double *value = job->output + place;
            const double upright = job->upright[of.row], steep = job->steep[of.row];
            for (int64_t k = 0; k < count; k++) {
                const double r = 1 / (1 - theta2 * slope[k]), p = slope[k] * r;
                const double t = (value[k] - upright * s[k]) / steep;
                const double curvature = -2 * t * (slope[k] - upright);
                beta[k] = first[k] * p * p;
                alpha[k] = second[k] * p * p + first[k] * curvature * r * r * r;
            }
            for (int64_t i = 0; i < size; i++) {
                const double *one = component(job, &of, i, at);
                for (int64_t k = 0; k < count; k++) weighted[k] = alpha[k] * one[k];
                for (int64_t j = 0; j <= i; j++)
                    matrix[i * size + j] += inner(weighted, component(job, &of, j, at), count);
                const double side = inner(beta, one, count);
                matrix[d * size + i] += i < d ? side : 2 * side;
            }
        }
        for (int64_t i = 0; i < size; i++)
            for (int64_t j = 0; j < i; j++) matrix[j * size + i] = matrix[i * size + j];
    }
}
