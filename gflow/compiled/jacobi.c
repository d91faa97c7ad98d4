/* Eigenvalues and eigenvectors of many small symmetric matrices by Jacobi's rotations, a matrix in
   each lane (Golub & Van Loan, Matrix Computations, 4th edition 2013, section 8.5). A lane that has
   converged is turned no more, so that no matrix depends on those beside it. Entries of the size of
   rounding are left: among equal eigenvalues they would turn by large angles, for ever. */

typedef struct {
    int64_t size;
    const double *matrices;
    double *values, *vectors;
    unsigned char *found;
} Job;

enum { SWEEPS = 30 };
#define ROUNDING 0x1p-53

static inline lanes root(lanes x) {
    for (int l = 0; l < LANES; l++) x[l] = sqrt(x[l]);
    return x;
}

static inline void turn(lanes *one, lanes *other, lanes cosine, lanes sine) {
    const lanes x = *one, y = *other;
    *one = cosine * x - sine * y;
    *other = sine * x + cosine * y;
}

/* Turn in the plane of p < q so that entry (p, q) of the upper triangle vanishes. */
static inline void rotate(int64_t n, int64_t p, int64_t q, lanes rounding, lanes *a, lanes *v) {
    const lanes zero = {0}, off = a[p * n + q], gap = a[q * n + q] - a[p * n + p];
    const bits active = size_of(off) > rounding;
    const lanes both = size_of(gap) + root(gap * gap + 4 * off * off);
    const lanes tangent = chosen(active, chosen(gap < zero, -2 * off, 2 * off) / both, zero);
    const lanes cosine = 1 / root(1 + tangent * tangent), sine = tangent * cosine;
    a[p * n + p] -= tangent * off, a[q * n + q] += tangent * off;
    a[p * n + q] = chosen(active, zero, off);
    for (int64_t k = 0; k < p; k++) turn(a + k * n + p, a + k * n + q, cosine, sine);
    for (int64_t k = p + 1; k < q; k++) turn(a + p * n + k, a + k * n + q, cosine, sine);
    for (int64_t k = q + 1; k < n; k++) turn(a + p * n + k, a + q * n + k, cosine, sine);
    for (int64_t k = 0; k < n; k++) turn(v + p * n + k, v + q * n + k, cosine, sine);
}

/* What is rounding of a matrix's entries: 2^-53 of its norm, infinite where none is more. */
static inline lanes rounding_of(int64_t n, const lanes *a) {
    lanes largest = {0}, squares = {0};
    for (int64_t p = 0; p < n; p++) {
        squares += a[p * n + p] * a[p * n + p];
        for (int64_t q = p + 1; q < n; q++) {
            squares += 2 * a[p * n + q] * a[p * n + q];
            largest = larger(size_of(a[p * n + q]), largest);
        }
    }
    const lanes rounding = ROUNDING * root(squares);
    return chosen(largest > rounding, rounding, INFINITY + (lanes){0});
}

/* A power of two that brings the numbers to where their squares are; NaN if one is not finite. */
static double scale_of(int64_t count, const double *numbers) {
    double most = 0, sum = 0;
    for (int64_t k = 0; k < count; k++) {
        most = fabs(numbers[k]) > most ? fabs(numbers[k]) : most;
        sum += 0 * numbers[k];
    }
    if (isnan(sum)) return NAN;
    if (most > 1e-100 && most < 1e100) return 1;
    const int place = ilogb(most);
    return ldexp(1, place < -1000 ? 1000 : place > 1000 ? -1000 : -place);
}

/* Those of matrices from `next` to `last`; what is not finite has NaN for values. */
void eigen(const Job *job, int64_t next, int64_t last) {
    const int64_t n = job->size;
    lanes *a = aligned_alloc(sizeof(lanes), 2 * n * n * sizeof(lanes)), *v = a + n * n;
    memset(job->found + next, 0, last - next);
    for (; a && next < last; next += LANES) {
        const int64_t count = last - next < LANES ? last - next : LANES;
        double scales[LANES];
        memset(a, 0, 2 * n * n * sizeof(lanes));
        for (int64_t l = 0; l < count; l++) {
            const double *matrix = job->matrices + (next + l) * n * n;
            scales[l] = scale_of(n * n, matrix);
            for (int64_t k = 0; k < n * n; k++) a[k][l] = scales[l] * matrix[k];
        }
        for (int64_t k = 0; k < n; k++) v[k * n + k] += 1;
        lanes rounding = rounding_of(n, a);
        for (int sweep = 0; sweep < SWEEPS; sweep++) {
            int any = 0;
            for (int l = 0; l < LANES; l++) any |= !isinf(rounding[l]);
            if (!any) break;
            for (int64_t p = 0; p < n; p++)
                for (int64_t q = p + 1; q < n; q++) rotate(n, p, q, rounding, a, v);
            rounding = rounding_of(n, a);
        }
        for (int64_t l = 0; l < count; l++) {
            double *vectors = job->vectors + (next + l) * n * n;
            job->found[next + l] = isinf(rounding[l]) != 0;
            for (int64_t k = 0; k < n; k++) {
                job->values[(next + l) * n + k] = a[k * n + k][l] / scales[l];
                for (int64_t i = 0; i < n; i++) vectors[i * n + k] = v[k * n + i][l];
            }
        }
    }
    free(a);
}
