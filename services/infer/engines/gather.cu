// Writes images that lie apart into one batch, in the layout and type that a network takes.
//
// `table` has two words for each entry of the batch: where its image begins, 0 for one that is to be
// zeros; and whether it is in the network's own layout and type already. Other images are
// (height, width, CHANNELS) uint8; (pixel * factor + offset) is what the network gets, the product
// rounded to float32, then the sum, then what BITS says. A thread works on four pixels: it reads
// them as whole words and writes each plane's, or each four values' of interleaved ones, at once.
//
// defines: BITS=32 CHANNELS=3 PLANAR=1
// defines: BITS=16 CHANNELS=3 PLANAR=1
// defines: BITS=8 CHANNELS=3 PLANAR=1
// defines: BITS=32 CHANNELS=3 PLANAR=0
// defines: BITS=16 CHANNELS=3 PLANAR=0
// defines: BITS=8 CHANNELS=3 PLANAR=0
// defines: BITS=32 CHANNELS=1 PLANAR=0
// defines: BITS=16 CHANNELS=1 PLANAR=0
// defines: BITS=8 CHANNELS=1 PLANAR=0

#define GROUP 4

#if BITS == 32
typedef float element;
#define ELEMENT(value) (value)
#elif BITS == 16
typedef uint16_t element;
#define ELEMENT(value) half_of(value)
#else
typedef uint8_t element;
#endif

/* Written at once, which compilers see of named members only, not of arrays. */
typedef struct __attribute__((aligned(GROUP * sizeof(element)))) { element a, b, c, d; } group;
typedef struct __attribute__((aligned(16))) { uint64_t a, b; } wide;

DEVICE element made_of(uint8_t pixel, float factor, float offset) {
#if BITS == 8
    return pixel;
#else
    return ELEMENT(__fmul_rn((float)pixel, factor) + offset);
#endif
}

/* Copy an entry, or clear it where there is no source. */
DEVICE void copy(uint64_t source, element *entry, int count, int thread, int threads) {
    const int bytes = count * (int)sizeof(element);
    if ((source | (uint64_t)entry | (uint64_t)bytes) % sizeof(wide) == 0) {
        const wide zero = {0, 0};
        for (int at = thread; at < bytes / (int)sizeof(wide); at += threads)
            ((wide *)entry)[at] = source ? ((const wide *)source)[at] : zero;
        return;
    }
    for (int at = thread; at < bytes; at += threads)
        ((uint8_t *)entry)[at] = source ? ((const uint8_t *)source)[at] : 0;
}

/* What is the `at`th of the four values of a part, a plane or the next four of all. */
#define PLACE(at) (PLANAR ? (at) * CHANNELS + part : part * GROUP + (at))
#define VALUE(at) \
    made_of(values[PLACE(at)], factors[PLACE(at) % CHANNELS], offsets[PLACE(at) % CHANNELS])

KERNEL gather(const uint64_t *table, element *batch, int pixels, float factor0, float factor1,
              float factor2, float offset0, float offset1, float offset2) {
    const float factors[3] = {factor0, factor1, factor2};
    const float offsets[3] = {offset0, offset1, offset2};
    const uint64_t source = table[2 * blockIdx.y];
    element *entry = batch + (uint64_t)blockIdx.y * CHANNELS * pixels;
    const int thread = blockIdx.x * blockDim.x + threadIdx.x;
    if (source == 0 || table[2 * blockIdx.y + 1]) {
        copy(source, entry, CHANNELS * pixels, thread, gridDim.x * blockDim.x);
        return;
    }
    const int first = GROUP * thread;
    const uint8_t *from = (const uint8_t *)source + (uint64_t)first * CHANNELS;
    if (pixels % GROUP || source % sizeof(uint32_t)) {
        for (int at = first; at < pixels && at < first + GROUP; at++, from += CHANNELS)
            for (int channel = 0; channel < CHANNELS; channel++) {
                const int place = PLANAR ? channel * pixels + at : at * CHANNELS + channel;
                entry[place] = made_of(from[channel], factors[channel], offsets[channel]);
            }
        return;
    }
    if (first >= pixels) return;
    uint8_t values[GROUP * CHANNELS];
#pragma unroll
    for (int word = 0; word < CHANNELS; word++) {
        const uint32_t read = ((const uint32_t *)from)[word];
#pragma unroll
        for (int at = 0; at < 4; at++) values[4 * word + at] = (uint8_t)(read >> (8 * at));
    }
#pragma unroll
    for (int part = 0; part < CHANNELS; part++) {
        const group made = {VALUE(0), VALUE(1), VALUE(2), VALUE(3)};
        *(group *)(entry + (PLANAR ? part * pixels + first : first * CHANNELS + part * GROUP)) = made;
    }
}
