/* An explicit pair on many rows, each with its own time and step, a number of attempts each:
   gflow.integrators.explicit, control, native and trouble in one loop. Every lane takes another row
   as soon as its own has made its attempts or has ended. */

typedef struct {
    int64_t rows, size, own, saves, attempts, count;
    double t_end, rtol, atol, nfe, hessians;
    const double *shared, *own_numbers, *grid, *beginning;
    const int64_t *ids;
    double *theta, *value, *t, *dt, *ratio, *saved, *log, *trace;
    int64_t *failures, *all_failures, *made;
    unsigned char *retrying, *troubled;
} Job;

typedef struct {
    int64_t row, made, place, failures, all_failures;
    double t, dt, before;
    int retrying;
} Lane;

enum { TRACED = STAGES + 2, LOGGED = 9 };

static inline double most(double x, double y) { return x > y ? x : y; }
static inline double least(double x, double y) { return x < y ? x : y; }

static int begins(const Job *job, int64_t row, Lane *lane) {
    if (job->t[row] >= job->t_end) return 0;
    lane->row = row;
    lane->made = lane->place = 0;
    lane->failures = job->failures[row], lane->all_failures = job->all_failures[row];
    lane->t = job->t[row], lane->dt = job->dt[row], lane->before = log(job->ratio[row]);
    lane->retrying = job->retrying[row];
    while (lane->place < job->saves && job->grid[lane->place] <= lane->t) lane->place++;
    return 1;
}

/* Sets the next step to try, and keeps the logarithm of an accepted ratio. */
static inline void control(Lane *lane, double step, double ratio) {
    if (isnan(ratio)) {
        lane->dt = BROKEN * step;
        lane->retrying = 1;
        return;
    }
    const double size = log(most(ratio, 1e-10));
    const double longest = lane->retrying ? 1.0 : GROW_MOST;
    double factor;
    if (ratio <= 1) {
        factor = SAFETY * exp((-0.7 * size + 0.4 * lane->before) / ERROR_ORDER);
        lane->before = most(size, log(1e-4));
    } else {
        factor = least(SAFETY * exp(-size / ERROR_ORDER), SAFETY);
    }
    lane->dt = step * least(most(factor, SHRINK_MOST), longest);
    lane->retrying = !(ratio <= 1);
}

static inline void write(const Job *job, const Lane *lane, double t1, double ratio) {
    double *entry = job->log + (lane->row * job->count + lane->made) * LOGGED;
    entry[0] = lane->t, entry[1] = t1 - lane->t, entry[2] = ratio, entry[3] = ratio <= 1;
    entry[4] = job->nfe + (STAGES - 1) * (lane->made + 1), entry[5] = job->hessians;
    entry[6] = entry[7] = 0, entry[8] = t1;
}

static inline int in_trouble(const Job *job, const Lane *lane, int l, const lanes *theta) {
    const double t = most(lane->t, 1e-300);
    if (lane->failures >= PATIENCE || lane->all_failures >= MAX_FAILURES) return 1;
    if (lane->dt <= 1e-15 * t && lane->dt <= 4 * (nextafter(t, INFINITY) - t)) return 1;
    if (lane->t > FOREVER) return 1;
    if ((job->attempts + lane->made) % SIZE_CHECK) return 0;
    double size = 0;
    for (int64_t p = 0; p < job->size; p++) size = most(size, fabs(theta[p][l]));
    return size > BLOW_UP * (1 + job->beginning[lane->row]);
}

static void save(const Job *job, Lane *lane, int l, double step, double t1, const lanes *theta,
                 const lanes *next, const lanes *stages) {
    const int64_t size = job->size;
    for (; lane->place < job->saves && job->grid[lane->place] <= t1; lane->place++) {
        double *out = job->saved + (job->ids[lane->row] * job->saves + lane->place) * size;
        const double x = (job->grid[lane->place] - lane->t) / (t1 - lane->t);
        if (x > 1 - SNAP) {
            for (int64_t p = 0; p < size; p++) out[p] = next[p][l];
            continue;
        }
        double weights[STAGES];
        for (int q = 0; q < STAGES; q++)
            weights[q] = x * (DENSE[q][0] + x * (DENSE[q][1] + x * (DENSE[q][2] + x * DENSE[q][3])));
        for (int64_t p = 0; p < size; p++) {
            double change = 0;
            for (int q = 0; q < STAGES; q++) change += weights[q] * stages[q * size + p][l];
            out[p] = theta[p][l] + step * change;
        }
    }
}

static void trace(const Job *job, const Lane *lane, int l, const lanes *theta, const lanes *next,
                  const lanes *stages) {
    const int64_t size = job->size;
    double *out = job->trace + (lane->row * job->count + lane->made) * TRACED * size;
    for (int64_t p = 0; p < size; p++) out[p] = theta[p][l], out[size + p] = next[p][l];
    for (int64_t p = 0; p < STAGES * size; p++) out[2 * size + p] = stages[p][l];
}

static void leave(const Job *job, Lane *lane, int l, const lanes *theta, const lanes *value) {
    const int64_t row = lane->row, size = job->size;
    for (int64_t p = 0; p < size; p++)
        job->theta[row * size + p] = theta[p][l], job->value[row * size + p] = value[p][l];
    job->t[row] = lane->t, job->dt[row] = lane->dt, job->ratio[row] = exp(lane->before);
    job->failures[row] = lane->failures, job->all_failures[row] = lane->all_failures;
    job->retrying[row] = lane->retrying, job->made[row] = lane->made;
    lane->row = -1;
}

/* Rows from `next` to `last`. */
void advance(const Job *job, int64_t next, int64_t last) {
    const int64_t size = job->size;
    lanes stages[STAGES * size], theta[size], moved[size];
    char *memory = malloc((job->own + 2) * sizeof(lanes));  /* too much for the stack of some */
    if (!memory) return;
    lanes *own = (lanes *)(memory + sizeof(lanes) - (uintptr_t)memory % sizeof(lanes));
    Lane each[LANES];
    memset(stages, 0, sizeof stages), memset(theta, 0, sizeof theta);
    memset(own, 0, (job->own + 1) * sizeof(lanes));
    for (int l = 0; l < LANES; l++) each[l].row = -1;
    for (;;) {
        int going = 0;
        lanes step = {0}, error = {0};
        double t1[LANES];
        for (int l = 0; l < LANES; l++) {
            Lane *lane = each + l;
            while (lane->row < 0 && next < last) {
                const int64_t row = next++;
                if (!begins(job, row, lane)) continue;
                for (int64_t p = 0; p < size; p++) {
                    theta[p][l] = job->theta[row * size + p];
                    stages[p][l] = job->value[row * size + p];
                }
                for (int64_t p = 0; p < job->own; p++) own[p][l] = job->own_numbers[row * job->own + p];
            }
            if (lane->row < 0) continue;
            const double left = job->t_end - lane->t;
            const int final = STRETCH * lane->dt >= left;
            step[l] = final ? left : lane->dt;
            t1[l] = final ? job->t_end : lane->t + lane->dt;
            going = 1;
        }
        if (!going) break;
#pragma GCC unroll 16
        for (int i = 1; i < STAGES; i++) {
            for (int64_t p = 0; p < size; p++) {
                lanes change = NODES[i][0] * stages[p];
#pragma GCC unroll 16
                for (int q = 1; q < i; q++) change += NODES[i][q] * stages[q * size + p];
                moved[p] = theta[p] + step * change;
            }
            field(size, job->shared, own, moved, stages + i * size);
        }
        for (int64_t p = 0; p < size; p++) {
            lanes wrong = ERROR[0] * stages[p];
#pragma GCC unroll 16
            for (int q = 1; q < STAGES; q++) wrong += ERROR[q] * stages[q * size + p];
            const lanes scale = larger(size_of(theta[p]), size_of(moved[p]));
            wrong = step * wrong / (job->atol + job->rtol * scale);
            error += wrong * wrong;
        }
        const bits jumped = branch(size, theta) != branch(size, moved);
        bits taken = {0};
        for (int l = 0; l < LANES; l++) {
            Lane *lane = each + l;
            if (lane->row < 0) continue;
            double ratio = sqrt(error[l] / size);
            if (!isfinite(ratio) || jumped[l]) ratio = NAN;
            write(job, lane, t1[l], ratio);
            control(lane, step[l], ratio);
            lane->failures = isnan(ratio) ? lane->failures + 1 : 0;
            lane->all_failures += isnan(ratio);
            if (ratio <= 1) {
                save(job, lane, l, step[l], t1[l], theta, moved, stages);
                if (job->trace) trace(job, lane, l, theta, moved, stages);
                lane->t = t1[l];
                taken[l] = -1;
            }
            lane->made++;
        }
        for (int64_t p = 0; p < size; p++) {
            theta[p] = chosen(taken, moved[p], theta[p]);
            stages[p] = chosen(taken, stages[(STAGES - 1) * size + p], stages[p]);
        }
        for (int l = 0; l < LANES; l++) {
            Lane *lane = each + l;
            if (lane->row < 0) continue;
            const int ended = lane->t >= job->t_end;
            const int troubled = !ended && in_trouble(job, lane, l, theta);
            job->troubled[lane->row] = troubled;
            if (ended || troubled || lane->made == job->count) leave(job, lane, l, theta, stages);
        }
    }
    free(memory);
}
