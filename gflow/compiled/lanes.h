/* Several rows at once, one in each lane of the machine's vectors. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

typedef double lanes __attribute__((vector_size(8 * LANES)));
typedef long long bits __attribute__((vector_size(8 * LANES)));

static inline lanes size_of(lanes x) { return (lanes)((bits)x & 0x7fffffffffffffffLL); }

static inline lanes chosen(bits where, lanes yes, lanes no) {
    return (lanes)(((bits)yes & where) | ((bits)no & ~where));
}

static inline lanes larger(lanes x, lanes y) { return chosen(x > y, x, y); }
