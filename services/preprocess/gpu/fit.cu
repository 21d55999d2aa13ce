/* Pictures of any size, as decoders left them, become the inputs of a model: one launch for all.

A thread makes ROWS pixels below one another. So what belongs to a column and to a picture is
computed and loaded once, and the lanes of a warp, which lie side by side, read and write side by
side, too. Colours are loaded as words, not as bytes.

The arithmetic is that of OpenCV's INTER_LINEAR for eight bits, to the last bit: weights of 11
bits from coordinates in single precision, columns before rows, and its truncations in between.

Bytes that must move, 1080p to 640 by 640: 1.2 MB are written; read are 6.2 MB where squares of 3
by 3 are averaged, else 2.1 MB, as each third row is met exactly. At 3.35 TB/s that is 2.2 us and
1.0 us. Compiled for sm_90, averages of 3 by 3 take some 170 instructions a pixel and the rest 110,
which an H100 issues in as much time or less.
*/
// defines: DTYPE=0 SIDE=0
// defines: DTYPE=0 SIDE=1
// defines: DTYPE=0 SIDE=2
// defines: DTYPE=0 SIDE=3
// defines: DTYPE=0 SIDE=4
// defines: DTYPE=0 SIDE=8
// defines: DTYPE=1 SIDE=1
// defines: DTYPE=2 SIDE=0

#define ROWS 4
#define CHANNELS 3
#define ONE 2048

/* Along one side: source pixels from `first` on, `count` of them, become `size` pixels, of which
the first one is pixel `at` of the output, perhaps outside of it. */
struct axis {
    double scale;
    int32_t first, count, size, at;
};

/* A picture, upright: steps may be negative, and those of rows and columns exchanged. */
struct picture {
    uint64_t pixels;             // address of its first pixel
    uint64_t out;                // address of its input
    struct axis across, down;
    int32_t row, column;         // bytes to the next of each
    int32_t samples;             // 1: grey; 3: colours, one behind the other
    int32_t luma;                // whether grey is wanted of colours
    int32_t swapped;             // whether colours are wanted in the other order, or grey of BGR
    int32_t reduction;           // pixels on a side of the squares that are averaged at first
    int32_t inverse;             // 65536 / reduction^2, rounded up
    int32_t wide, high;          // in pixels, before that
    int32_t pad;
    int32_t width, height, channels;                 // of the input
    int32_t out_row, out_column, out_channel;        // elements to the next of each
    float factor[CHANNELS], offset[CHANNELS];        // of the normalised kinds
};

struct taps {
    int first, second, low, high;
};

/* Two pixels between which one lies, and their weights. OpenCV lets columns beyond the edge have
all of the weight, but repeats rows. */
DEVICE struct taps taps_at(const struct axis *axis, int i, int is_row) {
    float at = (float)(__dmul_rn(i + 0.5, axis->scale) - 0.5);
    float whole = floorf(at);
    float part = at - whole;
    int first = (int)whole, last = axis->count - 1;
    if (!is_row && (first < 0 || first >= last)) part = 0.0f;
    struct taps taps;
    taps.low = (int)rintf((1.0f - part) * ONE);
    taps.high = (int)rintf(part * ONE);
    taps.second = axis->first + (first < 0 ? 0 : first < last ? first + 1 : last);
    taps.first = axis->first + (first < 0 ? 0 : first < last ? first : last);
    return taps;
}

/* Three neighbouring bytes, by aligned words that hold at least one of them. */
DEVICE uint32_t three_bytes(const uint8_t *at) {
    const uint32_t *words = (const uint32_t *)((uint64_t)at & ~(uint64_t)3);
    uint32_t skipped = (uint32_t)(uint64_t)at & 3;
    uint64_t both = __ldg(words);
    if (skipped > 1) both |= (uint64_t)__ldg(words + 1) << 32;
    return (uint32_t)(both >> (8 * skipped));
}

/* One pixel, its colours in the bytes from the lowest; OpenCV's weights where grey is wanted. */
DEVICE uint32_t colours_at(const struct picture *p, const uint8_t *at) {
    if (p->samples == 1) return __ldg(at) * 0x010101u;
    uint32_t found = three_bytes(at);
    if (!p->luma) return found;
    uint32_t first = found & 255, green = found >> 8 & 255, third = found >> 16 & 255;
    uint32_t red = p->swapped ? third : first, blue = p->swapped ? first : third;
    return ((red * 9798 + green * 19235 + blue * 3735 + 16384) >> 15) * 0x010101u;
}

DEVICE const uint8_t *pixel_at(const struct picture *p, int x, int y) {
    return (const uint8_t *)p->pixels + (int64_t)y * p->row + (int64_t)x * p->column;
}

/* Pixels on a side of the squares that are averaged: the same for all pictures, or (0) their own. */
#if SIDE > 0
#define SIDE_OF(p) SIDE
#else
#define SIDE_OF(p) (p)->reduction
#endif

#if SIDE != 1
struct colours {
    uint32_t first, second, third;
};

DEVICE uint32_t average(const struct picture *p, uint32_t sum) {
    uint32_t half = SIDE_OF(p) * SIDE_OF(p) / 2;
    return (sum + half) * p->inverse >> 16;
}

/* The sum and those of four bytes that are marked by ones. */
DEVICE uint32_t add_bytes(uint32_t four, uint32_t marks, uint32_t sum) {
    return marks ? __dp4a(four, marks, sum) : sum;
}

/* The sums of a square one pixel at a time; squares at the edge repeat the last ones. */
DEVICE struct colours sums_of_any(const struct picture *p, int x, int y) {
    int side = SIDE_OF(p), across = p->wide - 1 - x, down = p->high - 1 - y;
    const uint8_t *row = pixel_at(p, x, y);
    uint32_t outer = 0, inner = 0;
#pragma unroll 1
    for (int i = 0; i < side; i++) {
        const uint8_t *at = row;
#pragma unroll 1
        for (int j = 0; j < side; j++) {
            uint32_t one = colours_at(p, at);
            outer += one & 0xff00ff;
            inner += one >> 8 & 0xff;
            if (j < across) at += p->column;
        }
        if (i < down) row += p->row;
    }
    struct colours sums = {outer & 0xffff, inner, outer >> 16};
    return sums;
}

/* The same where pixels follow one another and the square is whole: twelve bytes, which are four
pixels, at a time. Which bytes of a word are of a colour moves on with each word. */
DEVICE struct colours sums_of_packed(const struct picture *p, int x, int y) {
    const uint32_t own[CHANNELS] = {0x01000001, 0x00010000, 0x00000100};
    int side = SIDE_OF(p);
    const uint8_t *corner = pixel_at(p, x, y);
    struct colours sums = {0, 0, 0};
    for (int done = 0; done < side; done += 4, corner += 12) {
        int nbytes = side - done < 4 ? 3 * (side - done) : 12;
        const uint8_t *at = corner;
        for (int i = 0; i < side; i++, at += p->row) {
            const uint32_t *words = (const uint32_t *)((uint64_t)at & ~(uint64_t)3);
            int skipped = (int)((uint64_t)at & 3);
            uint32_t word = __ldg(words);
            for (int j = 0; j < CHANNELS; j++) {
                int left = nbytes - 4 * j;
                uint32_t keep = left >= 4 ? 0xffffffff : left > 0 ? (1u << 8 * left) - 1 : 0;
                uint32_t next = 4 * j + 4 < skipped + nbytes ? __ldg(words + j + 1) : 0;
                uint32_t four = (uint32_t)(((uint64_t)next << 32 | word) >> (8 * skipped));
                sums.first = add_bytes(four, own[j] & keep, sums.first);
                sums.second = add_bytes(four, own[(j + 2) % CHANNELS] & keep, sums.second);
                sums.third = add_bytes(four, own[(j + 1) % CHANNELS] & keep, sums.third);
                word = next;
            }
        }
    }
    return sums;
}

/* The average of a square of pixels. */
DEVICE uint32_t square_at(const struct picture *p, int x, int y) {
    int side = SIDE_OF(p), left = x * side, top = y * side;
    int packed = p->samples == CHANNELS && p->column == CHANNELS && !p->luma;
    struct colours sums = packed && left + side <= p->wide && top + side <= p->high
        ? sums_of_packed(p, left, top)
        : sums_of_any(p, left, top);
    return average(p, sums.first) | average(p, sums.second) << 8 | average(p, sums.third) << 16;
}
#else
DEVICE uint32_t square_at(const struct picture *p, int x, int y) {
    return colours_at(p, pixel_at(p, x, y));
}
#endif

/* What a row contributes; what has no weight is not loaded. */
DEVICE void add_row(const struct picture *p, const struct taps *x, int y, int weight, int *sums) {
    if (!weight) return;
    uint32_t left = square_at(p, x->first, y);
    uint32_t right = x->high ? square_at(p, x->second, y) : 0;
    for (int c = 0; c < CHANNELS; c++) {
        int sum = (left >> 8 * c & 255) * x->low + (right >> 8 * c & 255) * x->high;
        sums[c] += weight * (sum >> 4) >> 16;
    }
}

DEVICE void store(const struct picture *p, int x, int y, int c, int value) {
    int64_t at = (int64_t)y * p->out_row + x * p->out_column + c * p->out_channel;
#if DTYPE == 0
    ((uint8_t *)p->out)[at] = (uint8_t)value;
#else
    float normal = __fmul_rn((float)value, p->factor[c]) + p->offset[c];
#if DTYPE == 1
    ((float *)p->out)[at] = normal;
#else
    ((uint16_t *)p->out)[at] = half_of(normal);
#endif
#endif
}

KERNEL fit(const struct picture *__restrict__ pictures) {
    // A copy, or fields would be loaded again after each store.
    const struct picture mine = pictures[blockIdx.z], *p = &mine;
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = (blockIdx.y * blockDim.y + threadIdx.y) * ROWS;
    if (x >= p->width || y >= p->height) return;
    int column = x - p->across.at;
    int beside = column < 0 || column >= p->across.size;
    struct taps across = taps_at(&p->across, column, 0);
    int end = y + ROWS < p->height ? y + ROWS : p->height;
#pragma unroll 1
    for (; y < end; y++) {
        int sums[CHANNELS] = {0, 0, 0};
        int row = y - p->down.at;
        int outside = beside || row < 0 || row >= p->down.size;
        if (!outside) {
            struct taps down = taps_at(&p->down, row, 1);
            add_row(p, &across, down.first, down.low, sums);
            add_row(p, &across, down.second, down.high, sums);
        }
        for (int c = 0; c < CHANNELS; c++) {
            int sum = p->swapped ? sums[CHANNELS - 1 - c] : sums[c];
            if (c < p->channels) store(p, x, y, c, outside ? p->pad : (sum + 2) >> 2);
        }
    }
}
