/* Minus the gradient of linear DEQs from the second moments of their data, S = (2/n) X^T X and
   m = (2/n) X^T y, with weight decay: with phi = theta1 / (1 - theta2) and
   q = (S phi - m) / (1 - theta2), the gradient is (q, phi . q). S is symmetric. */

#if OWN_INPUTS
#define SQUARE(i, j) own[(i) * d + (j)]
#define MIXED (own + d * d)
#else
#define SQUARE(i, j) shared[1 + (i) * d + (j)]
#define MIXED own
#endif

static inline void field(int64_t size, const double *shared, const lanes *own, const lanes *theta,
                         lanes *out) {
    const int64_t d = size - 1;
    const double decay = shared[0];
    lanes phi[d + 1], last = {0};
    const lanes inverse = 1 / (1 - theta[d]);
    for (int64_t i = 0; i < d; i++) phi[i] = theta[i] * inverse;
    for (int64_t i = 0; i < d; i++) {
        lanes pulled = MIXED[i];
        for (int64_t j = 0; j < d; j++) pulled -= SQUARE(i, j) * phi[j];
        pulled *= inverse;
        last += pulled * phi[i];
        out[i] = pulled - decay * theta[i];
    }
    out[d] = last - decay * theta[d];
}

/* The side of theta2 = 1. */
static inline lanes branch(int64_t size, const lanes *theta) {
    const bits side = 1 - theta[size - 1] > (lanes){0};
    return (lanes)(side & (bits)(1 + (lanes){0}));
}
