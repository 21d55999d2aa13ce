/* A detector's candidates: of thousands of boxes those that score enough, the strongest of these,
 * and where they lie. Each kernel is a phase, launched once for all images of a batch: blockIdx.y
 * is the image.
 *
 * OBJECTNESS=0: outputs are (4 + classes, boxes); 1: (boxes, 5 + classes), objectness before the
 * classes. HALF=1: they are binary16. GRID=1: boxes are offsets from the cells of grids.
 *
 * A key orders candidates by score and then by number, so that no two are equal and the best is the
 * largest: the bits of the score, which is not negative, above the complement of the number.
 */
// defines: HALF=0 OBJECTNESS=0 GRID=0
// defines: HALF=1 OBJECTNESS=0 GRID=0
// defines: HALF=0 OBJECTNESS=1 GRID=0
// defines: HALF=1 OBJECTNESS=1 GRID=0
// defines: HALF=0 OBJECTNESS=1 GRID=1
// defines: HALF=1 OBJECTNESS=1 GRID=1

#define BOX 4
#define LISTED 0
#define CHOSEN 1
#define WRONG 2
#define STATES 5
#define LEAST_SCORE -1e-3f
#define MOST_SCORE 1.001f

#if HALF
typedef uint16_t value_t;
#define READ(value) float_of(value)
#else
typedef float value_t;
#define READ(value) (value)
#endif

#if OBJECTNESS
#define HEAD (BOX + 1)
#define VALUE(row) READ(output[(int64_t)box * (HEAD + classes) + (row)])
#else
#define HEAD BOX
#define VALUE(row) READ(output[(int64_t)(row) * boxes + box])
#endif

struct best {
    float score;
    float least;
    int label;
    int numbers;
};

/* The first of a box's best classes, its least score, and whether all are numbers. */
DEVICE struct best best_of(const value_t *output, int box, int boxes, int classes) {
    float score = VALUE(HEAD), least = score;
    int label = 0, numbers = score == score;
#pragma unroll 8
    for (int i = 1; i < classes; i++) {
        float value = VALUE(HEAD + i);
        if (value > score) {
            score = value;
            label = i;
        }
        least = fminf(least, value);
        numbers &= value == value;
    }
    struct best found = {score, least, label, numbers};
    return found;
}

DEVICE int finite_number(float value) { return value - value == 0; }

DEVICE uint64_t key_of(float score, int number) {
    union { float value; uint32_t bits; } both;
    both.value = score + 0.0f;  /* a negative zero would be the largest of all */
    return (uint64_t)both.bits << 32 | (0xffffffffu - (uint32_t)number);
}

DEVICE int number_of(uint64_t key) { return (int)(0xffffffffu - (uint32_t)key); }

DEVICE float score_of(uint64_t key) {
    union { uint32_t bits; float value; } both;
    both.bits = (uint32_t)(key >> 32);
    return both.value;
}

/* Lists the boxes that score `floor`; `gate` is the floor in the outputs' own precision. Marks the
 * image as wrong if a score that decides, or one beside it, is none. */
KERNEL list_boxes(const uint64_t *outputs, uint64_t *keys, int *labels, int *states, int boxes,
                  int classes, int room, float gate, float floor) {
    int box = blockIdx.x * blockDim.x + threadIdx.x, image = blockIdx.y;
    if (box >= boxes) return;
    const value_t *output = (const value_t *)outputs[image];
    int *state = states + STATES * image;
#if OBJECTNESS
    float objectness = VALUE(BOX);
    if (!finite_number(objectness)) state[WRONG] = 1;
    if (!(objectness >= gate)) return;
    struct best best = best_of(output, box, boxes, classes);
    int sound = objectness <= MOST_SCORE;
    float score = __fmul_rn(objectness, best.score);
#else
    struct best best = best_of(output, box, boxes, classes);
    if (!best.numbers || !finite_number(best.score)) state[WRONG] = 1;
    if (!(best.score >= gate)) return;
    int sound = 1;
    float score = best.score;
#endif
    if (!(sound && best.numbers && best.least >= LEAST_SCORE && best.score <= MOST_SCORE))
        state[WRONG] = 1;
    if (!(score >= floor)) return;
    int place = atomicAdd(state + LISTED, 1);
    if (place >= room) return;
    keys[(int64_t)image * room + place] = key_of(score, box);
    labels[(int64_t)image * room + place] = best.label;
}

/* Chooses the `most` best of what is listed. */
KERNEL choose_boxes(const uint64_t *keys, const int *labels, uint64_t *chosen, int *chosen_labels,
                    int *states, int room, int most) {
    int at = blockIdx.x * blockDim.x + threadIdx.x, image = blockIdx.y;
    int *state = states + STATES * image;
    int listed = state[LISTED] < room ? state[LISTED] : room;
    if (at >= listed) return;
    keys += (int64_t)image * room;
    uint64_t key = keys[at];
    if (listed > most) {
        int better = 0;
#pragma unroll 8
        for (int i = 0; i < listed; i++) better += keys[i] > key;
        if (better >= most) return;
    }
    int place = atomicAdd(state + CHOSEN, 1);
    chosen[(int64_t)image * most + place] = key;
    chosen_labels[(int64_t)image * most + place] = labels[(int64_t)image * room + at];
}

/* Writes what was chosen in the order of its numbers: corners in input pixels, scores, classes.
 * `frame` takes x, y, x, y to input pixels; of a grid it is column, row and stride of each box. */
KERNEL decode_boxes(const uint64_t *outputs, const uint64_t *chosen, const int *chosen_labels,
                    const int *states, const float *frame, float *corners, float *scores,
                    int *labels, int boxes, int classes, int most) {
    int at = blockIdx.x * blockDim.x + threadIdx.x, image = blockIdx.y;
    int count = states[STATES * image + CHOSEN];
    if (at >= count) return;
    chosen += (int64_t)image * most;
    uint64_t key = chosen[at];
    int box = number_of(key), place = 0;
#pragma unroll 8
    for (int i = 0; i < count; i++) place += (uint32_t)chosen[i] > (uint32_t)key;
    const value_t *output = (const value_t *)outputs[image];
    float x = VALUE(0), y = VALUE(1), width = VALUE(2), height = VALUE(3);
#if GRID
    float stride = frame[3 * box + 2];
    x = __fmul_rn(x + frame[3 * box], stride);
    y = __fmul_rn(y + frame[3 * box + 1], stride);
    width = __fmul_rn(expf(width), stride);
    height = __fmul_rn(expf(height), stride);
#else
    x = __fmul_rn(x, frame[0]);
    y = __fmul_rn(y, frame[1]);
    width = __fmul_rn(width, frame[2]);
    height = __fmul_rn(height, frame[3]);
#endif
    int64_t target = (int64_t)image * most + place;
    corners[BOX * target] = x - width / 2;
    corners[BOX * target + 1] = y - height / 2;
    corners[BOX * target + 2] = x + width / 2;
    corners[BOX * target + 3] = y + height / 2;
    scores[target] = fminf(score_of(key), 1);
    labels[target] = chosen_labels[(int64_t)image * most + at];
}
