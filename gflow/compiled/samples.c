/* Sums and roots over the samples of single-index DEQs, a block of samples of one row at a time. */

enum { PIECE = 256, MANY = PIECE / LANES };

#define SHORT 0.1
#define ROUNDING 0x1p-49
#define CURVED 0.7698003589195010 /* the largest second derivative of tanh, 4 / sqrt(27) */

typedef struct {
    int64_t samples, block, inputs, rows_of_steep, rows_of_target;
    double upright, weight;
    const double *const *x;
    const double *theta, *steep, *start, *known, *target;
    const double *output, *derivative, *first, *second;
    double *point, *value, *slope, *sums;
    unsigned char *lost, *valid;
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
    if (count >= LANES)
        memcpy(to, &x, sizeof x);
    else
        memcpy(to, &x, count * sizeof(double));
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

typedef struct {
    int64_t row, from, end;
    const double *x, *target;
    double theta2, steep;
} Block;

static inline Block block_of(const Job *job, int64_t number) {
    const int64_t n = job->samples, blocks = (n + job->block - 1) / job->block;
    const int64_t row = number / blocks, from = number % blocks * job->block;
    return (Block){
        .row = row,
        .from = from,
        .end = from + job->block < n ? from + job->block : n,
        .x = job->x[row],
        .target = job->target ? job->target + (job->rows_of_target == 1 ? 0 : row * n) : 0,
        .theta2 = job->theta[row * (job->inputs + 1) + job->inputs],
        .steep = job->steep[job->rows_of_steep == 1 ? 0 : row],
    };
}

/* sigma(s) from t = tanh(s); `mask` has all bits where `upright` is 1. With a multiplication for it
   the compiler could join one or the other with the sum, and the last digit would depend on where
   this is asked for. */
static inline lanes activation(bits mask, double steep, lanes s, lanes t) {
    return (lanes)((bits)s & mask) + steep * t;
}

/* Newton for s - linear - theta2 sigma(s) with sigma(s) = upright s + steep tanh(s) at a piece of
   samples, as gflow.equilibrium.solvers.tracking_newton. The last value is a function of the point
   alone, so that a flow that is gone on with has the same. */
static inline int tracked(const Job *job, const Block *of, int64_t at, int64_t count,
                          const lanes *linear) {
    const double theta2 = of->theta2, steep = of->steep, upright = job->upright, flat = 1 / steep;
    const bits mask = (bits){0} - (upright != 0);
    const double bend = fabs(theta2) * steep * CURVED / 2;
    const double tolerance = ROUNDING / (1 + fabs(theta2) * (upright + steep));
    const int64_t place = of->row * job->samples + at;
    const int many = (count + LANES - 1) / LANES;
    /* A row that was lost holds NaN throughout. */
    const int known = job->known && !isnan(job->known[of->row * job->samples]);
    lanes s[MANY], t[MANY], step[MANY];
    for (int v = 0; v < many; v++) {
        const int64_t here = place + v * LANES, width = count - v * LANES;
        s[v] = job->start ? load(job->start + here, width) : linear[v];
        const lanes value = known ? load(job->known + here, width)
                                  : activation(mask, steep, s[v], hyperbolic(s[v]));
        t[v] = (value - (lanes)((bits)s[v] & mask)) * flat;
    }
    for (int i = 0; i < 7; i++) {
        lanes sizes = {0}, all = {0};
        for (int v = 0; v < many; v++) {
            const lanes slope = upright + steep * (1 - t[v] * t[v]);
            const lanes gap = s[v] - linear[v] - theta2 * activation(mask, steep, s[v], t[v]);
            step[v] = gap / (1 - theta2 * slope);
            sizes = larger(size_of(step[v]), sizes), all += size_of(step[v]);
        }
        const double size = largest(sizes);
        if (!isfinite(total(all))) return 0;
        const int here = size <= tolerance;
        const int last = here || (size <= NEAR && bend * size * size <= tolerance);
        if (!last && size <= SHORT)
            for (int v = 0; v < many; v++) s[v] -= step[v], t[v] = moved(t[v], step[v]);
        else
            for (int v = 0; v < many; v++) {
                s[v] -= here ? (lanes){0} : step[v];
                t[v] = hyperbolic(s[v]);
            }
        if (!last) continue;
        for (int v = 0; v < many; v++) {
            const int64_t here = place + v * LANES, width = count - v * LANES;
            keep(job->point + here, s[v], width);
            keep(job->value + here, activation(mask, steep, s[v], t[v]), width);
            keep(job->slope + here, upright + steep * (1 - t[v] * t[v]), width);
        }
        return 1;
    }
    return 0;
}

/* Component j of w_i = (x_i, output_i) from sample `at` on; inputs lie one component after the
   other. */
static inline const double *component(const Job *job, const Block *of, const double *output,
                                      int64_t j, int64_t at) {
    const int64_t n = job->samples;
    return j < job->inputs ? of->x + j * n + at : output + of->row * n + at;
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

/* Add sum_i first_i slope_i r_i w_i with r = 1 / (1 - theta2 slope); `first` is overwritten. */
static inline void add_pulled(const Job *job, const Block *of, const double *output, int64_t at,
                              int64_t count, double *first, const double *slope, double *sums) {
    for (int64_t k = 0; k < count; k++) first[k] *= slope[k] / (1 - of->theta2 * slope[k]);
    for (int64_t j = 0; j <= job->inputs; j++)
        sums[j] += inner(first, component(job, of, output, j, at), count);
}

/* theta1 . x of a piece of samples. */
static inline void project(const double *x, int64_t n, int64_t d, const double *theta,
                           int64_t count, lanes *linear) {
    int64_t k = 0;
    for (; k + LANES <= count; k += LANES) {
        lanes sum = {0};
        for (int64_t j = 0; j < d; j++) sum += theta[j] * load(x + j * n + k, LANES);
        linear[k / LANES] = sum;
    }
    if (k == count) return;
    lanes sum = {0};
    for (int64_t j = 0; j < d; j++) sum += theta[j] * load(x + j * n + k, count - k);
    linear[k / LANES] = sum;
}

/* Whether theta is finite and 1 - theta2 sigma' of one sign, as SingleIndexDEQ.admissible. */
static int admissible(const Job *job, const Block *of, const double *theta) {
    const double first = 1 - of->theta2 * job->upright;
    const double last = 1 - of->theta2 * (job->upright + of->steep);
    double sum = 0;
    for (int64_t j = 0; j <= job->inputs; j++) sum += theta[j];
    return isfinite(sum) && first * last > 0;
}

/* What a row without an equilibrium is left with. */
static void leave(const Job *job, const Block *of, double *sums) {
    for (int64_t i = of->row * job->samples + of->from; i < of->row * job->samples + of->end; i++)
        job->point[i] = 0, job->value[i] = NAN, job->slope[i] = job->upright + of->steep;
    for (int64_t j = 0; of->target && j <= job->inputs; j++) sums[j] = NAN;
}

/* The roots; with targets the gradient of the mean squared error too, whose slope is weight
   (output - target). */
void track(const Job *job, int64_t next, int64_t last) {
    const int64_t d = job->inputs, n = job->samples;
    double piece[PIECE];
    lanes linear[MANY];
    for (; next < last; next++) {
        const Block of = block_of(job, next);
        const double *theta = job->theta + of.row * (d + 1), *slope = job->slope + of.row * n;
        double *sums = job->sums + next * (d + 1);
        int found = 1;
        const int valid = admissible(job, &of, theta);
        if (of.from == 0) job->valid[of.row] = valid;
        job->lost[next] = 0;
        if (!valid) {
            leave(job, &of, sums);
            continue;
        }
        if (of.target) memset(sums, 0, (d + 1) * sizeof(double));
        for (int64_t at = of.from; found && at < of.end; at += PIECE) {
            const int64_t count = of.end - at < PIECE ? of.end - at : PIECE;
            project(of.x + at, n, d, theta, count, linear);
            found = tracked(job, &of, at, count, linear);
            if (!found || !of.target) continue;
            const double *value = job->value + of.row * n + at;
            for (int64_t k = 0; k < count; k++)
                piece[k] = job->weight * (value[k] - of.target[at + k]);
            add_pulled(job, &of, job->value, at, count, piece, slope + at, sums);
        }
        job->lost[next] = !found;
    }
}

/* The gradient of a loss with slopes `first`. */
void pull(const Job *job, int64_t next, int64_t last) {
    const int64_t size = job->inputs + 1;
    double first[PIECE];
    for (; next < last; next++) {
        const Block of = block_of(job, next);
        double *sums = job->sums + next * size;
        memset(sums, 0, size * sizeof(double));
        for (int64_t at = of.from; at < of.end; at += PIECE) {
            const int64_t count = of.end - at < PIECE ? of.end - at : PIECE;
            const int64_t place = of.row * job->samples + at;
            memcpy(first, job->first + place, count * sizeof(double));
            add_pulled(job, &of, job->output, at, count, first, job->derivative + place, sums);
        }
    }
}

/* sum_i alpha_i w_i w_i^T + beta_i (w_i e_P^T + e_P w_i^T) of each block of a row, with
   alpha = second p^2 + first curvature r^3, beta = first p^2 and p = slope r. With targets the loss
   is the mean squared error. */
void bend(const Job *job, int64_t next, int64_t last) {
    const int64_t d = job->inputs, size = d + 1;
    double alpha[PIECE], beta[PIECE], weighted[PIECE];
    for (; next < last; next++) {
        const Block of = block_of(job, next);
        double *matrix = job->sums + next * size * size;
        memset(matrix, 0, size * size * sizeof(double));
        for (int64_t at = of.from; at < of.end; at += PIECE) {
            const int64_t count = of.end - at < PIECE ? of.end - at : PIECE;
            const int64_t place = of.row * job->samples + at;
            const double *slope = job->derivative + place, *s = job->start + place;
            const double *value = job->output + place;
            const double upright = job->upright, flat = 1 / of.steep;
            for (int64_t k = 0; k < count; k++) {
                const double r = 1 / (1 - of.theta2 * slope[k]), p = slope[k] * r;
                const double t = (value[k] - upright * s[k]) * flat;
                const double curvature = -2 * t * (slope[k] - upright);
                const double first =
                    of.target ? job->weight * (value[k] - of.target[at + k]) : job->first[place + k];
                const double second = of.target ? job->weight : job->second[place + k];
                alpha[k] = second * p * p + first * curvature * r * r * r;
                beta[k] = first * p * p;
            }
            for (int64_t i = 0; i < size; i++) {
                const double *one = component(job, &of, job->output, i, at);
                for (int64_t k = 0; k < count; k++) weighted[k] = alpha[k] * one[k];
                for (int64_t j = 0; j <= i; j++) {
                    const double *other = component(job, &of, job->output, j, at);
                    matrix[i * size + j] += inner(weighted, other, count);
                }
                const double side = inner(beta, one, count);
                matrix[d * size + i] += i < d ? side : 2 * side;
            }
        }
        for (int64_t i = 0; i < size; i++)
            for (int64_t j = 0; j < i; j++) matrix[j * size + i] = matrix[i * size + j];
    }
}
