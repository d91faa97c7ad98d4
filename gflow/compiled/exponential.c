/* The sums of one step of exprb43 by the eigenvectors of the Jacobian, row by row:
   gflow.integrators.exponential, propagators, phi and accumulation between its evaluations. */

typedef struct {
    int64_t size;
    const double *values, *vectors, *theta, *field, *width, *end;
    const double *middle_field, *whole_field, *after;
    double *work, *moved, *error;
} Job;

/* Numbers of a row that are kept between calls. */
enum { FLOW, NEAR, FAR, PHI1, PHI3, PHI4, INCREMENT, LAST };
_Static_assert(LAST == KEPT, "as many as there is memory for");

/* What there is of one row. */
typedef struct {
    int64_t n;
    const double *values, *vectors, *theta, *field;
    double h;
    double *kept[KEPT];
} Row;

static inline Row row_of(const Job *job, int64_t number) {
    const int64_t n = job->size;
    Row row = {
        .n = n,
        .values = job->values + number * n,
        .vectors = job->vectors + number * n * n,
        .theta = job->theta + number * n,
        .field = job->field + number * n,
        .h = job->width[number],
    };
    for (int k = 0; k < KEPT; k++) row.kept[k] = job->work + (number * KEPT + k) * n;
    return row;
}

/* phi_1 to phi_4. */
static inline void phi_functions(double z, double *phi) {
    if (fabs(z) <= SERIES_UP_TO) {
        double sum = INVERSE_FACTORIALS[LAST_TERM];
        for (int j = LAST_TERM - 1; j > 0; j--) {
            sum = sum * z + INVERSE_FACTORIALS[j];
            if (j <= 4) phi[j - 1] = sum;
        }
        return;
    }
    phi[0] = expm1(z) / z;
    for (int k = 1; k < 4; k++) phi[k] = (phi[k - 1] - INVERSE_FACTORIALS[k]) / z;
}

/* Coordinates of a vector along the eigenvectors, times h. */
static inline void into(const Row *row, const double *vector, double *coordinates) {
    memset(coordinates, 0, row->n * sizeof(double));
    for (int64_t i = 0; i < row->n; i++) {
        const double scaled = row->h * vector[i], *line = row->vectors + i * row->n;
        for (int64_t k = 0; k < row->n; k++) coordinates[k] += scaled * line[k];
    }
}

/* Component i of coordinates. */
static inline double out(const Row *row, const double *coordinates, int64_t i) {
    const double *line = row->vectors + i * row->n;
    double sum = 0;
    for (int64_t k = 0; k < row->n; k++) sum += line[k] * coordinates[k];
    return sum;
}

static inline void move(const Row *row, const double *coordinates, double *to) {
    for (int64_t i = 0; i < row->n; i++) to[i] = row->theta[i] + out(row, coordinates, i);
}

/* Coordinates of h (found - before - J increment). */
static inline void remainder_of(const Row *row, const double *found, const double *before,
                                const double *increment, double *to) {
    double change[row->n];
    for (int64_t i = 0; i < row->n; i++) change[i] = found[i] - before[i];
    into(row, change, to);
    for (int64_t k = 0; k < row->n; k++) to[k] -= row->h * row->values[k] * increment[k];
}

/* Where the field is wanted at half the step, */
void middle(const Job *job, int64_t next, int64_t last) {
    const int64_t n = job->size;
    for (; next < last; next++) {
        const Row row = row_of(job, next);
        double *const *kept = row.kept, phi[4];
        into(&row, row.field, kept[FLOW]);
        for (int64_t k = 0; k < n; k++) {
            const double z = row.h * row.values[k];
            phi_functions(z / 2, phi);
            kept[INCREMENT][k] = phi[0] / 2 * kept[FLOW][k];
            phi_functions(z, phi);
            kept[PHI1][k] = phi[0], kept[PHI3][k] = phi[2], kept[PHI4][k] = phi[3];
        }
        move(&row, kept[INCREMENT], job->moved + next * n);
    }
}

/* at its end, */
void whole(const Job *job, int64_t next, int64_t last) {
    const int64_t n = job->size;
    for (; next < last; next++) {
        const Row row = row_of(job, next);
        double *const *kept = row.kept;
        remainder_of(&row, job->middle_field + next * n, row.field, kept[INCREMENT], kept[NEAR]);
        for (int64_t k = 0; k < n; k++)
            kept[INCREMENT][k] = kept[PHI1][k] * (kept[FLOW][k] + kept[NEAR][k]);
        move(&row, kept[INCREMENT], job->moved + next * n);
    }
}

static inline double third(const Row *row, int64_t k) {
    return row->kept[PHI3][k] * (16 * row->kept[NEAR][k] - 2 * row->kept[FAR][k]);
}

static inline double fourth(const Row *row, int64_t k) {
    return row->kept[PHI4][k] * (12 * row->kept[FAR][k] - 48 * row->kept[NEAR][k]);
}

/* and where the step leads. */
void end(const Job *job, int64_t next, int64_t last) {
    const int64_t n = job->size;
    double sum[n];
    for (; next < last; next++) {
        const Row row = row_of(job, next);
        double *const *kept = row.kept;
        remainder_of(&row, job->whole_field + next * n, row.field, kept[INCREMENT], kept[FAR]);
        for (int64_t k = 0; k < n; k++)
            sum[k] = kept[PHI1][k] * kept[FLOW][k] + third(&row, k) + fourth(&row, k);
        move(&row, sum, job->moved + next * n);
    }
}

static inline double length(const double *vector, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += vector[i] * vector[i];
    return sqrt(sum);
}

static inline double at_least(double x, double least) { return x < least ? least : x; }

/* As gflow.integrators.accumulation has it: t is where the step ends, `seen` how far the field is
   from what it was taken to be there. */
static inline double times_repeated(const Row *row, double t, double seen) {
    double steepest = 0;
    for (int64_t k = 0; k < row->n; k++) {
        const double size = fabs(row->values[k]);
        steepest = size > steepest || isnan(size) ? size : steepest;
    }
    const double size = length(row->theta, row->n), speed = length(row->field, row->n);
    const double own = size / at_least(speed, 1e-30), alike = (own > t ? t : own) / row->h;
    const double told = 1 - NOISE * steepest * size / at_least(seen, 1e-30);
    return at_least(told, 0) * (1 + REPEATED * alike);
}

/* The larger of both estimates of the error, from the field at the step's end. */
void estimate(const Job *job, int64_t next, int64_t last) {
    const int64_t n = job->size;
    double gap[n], moved[n], late[n], cubic[n];
    for (; next < last; next++) {
        const Row row = row_of(job, next);
        double *const *kept = row.kept;
        const double *before = job->whole_field + next * n, *after = job->after + next * n;
        for (int64_t k = 0; k < n; k++) {
            gap[k] = after[k] - before[k];
            cubic[k] = fourth(&row, k);
            moved[k] = third(&row, k) + cubic[k] - kept[PHI1][k] * kept[NEAR][k];
        }
        const double count = times_repeated(&row, job->end[next], length(gap, n));
        remainder_of(&row, after, before, moved, late);
        for (int64_t k = 0; k < n; k++) late[k] *= 12 * kept[PHI4][k] - 2 * kept[PHI3][k];
        for (int64_t i = 0; i < n; i++) {
            const double embedded = fabs(SHARE * out(&row, cubic, i));
            const double missed = count * fabs(out(&row, late, i));
            job->error[next * n + i] = embedded > missed || isnan(embedded) ? embedded : missed;
        }
    }
}
