/* Non-maximum suppression of upright boxes, of all images of a batch at once. Each kernel is a
 * phase: the order of the boxes, who covers whom, and who stays.
 */

#define BOX 4
#define CHOSEN 1
#define RANKED 3
#define KEPT 4
#define STATES 5
#define WORD 64

DEVICE uint64_t order_of(float score, int number) {
    union { float value; uint32_t bits; } both;
    both.value = score + 0.0f;  /* a negative zero would be the largest of all */
    return (uint64_t)both.bits << 32 | (0xffffffffu - (uint32_t)number);
}

/* Ranks the boxes that score what is asked of their class, best first; of equal ones the lower
 * number counts as the better. blockIdx.y is the image. */
KERNEL rank_boxes(const float *scores, const int *labels, const float *least, int *states,
                  int *ranked, int *covering, int most, int classes) {
    int at = blockIdx.x * blockDim.x + threadIdx.x, image = blockIdx.y;
    int count = states[STATES * image + CHOSEN];
    if (at >= count) return;
    int64_t first = (int64_t)image * most;
    scores += first;
    labels += first;
    least += (int64_t)image * classes;
    if (scores[at] < least[labels[at]]) return;
    uint64_t key = order_of(scores[at], at);
    int rank = 0;
#pragma unroll 4
    for (int i = 0; i < count; i++)
        rank += order_of(scores[i], i) > key && scores[i] >= least[labels[i]];
    ranked[first + rank] = at;
    covering[first + rank] = 0;
    atomicAdd(states + STATES * image + RANKED, 1);
}

DEVICE double side(double low, double high) { return fmax(high - low, 0.0); }

DEVICE double area(const float *box) {
    /* A side may be negative, and a negative union would be covered by anything. */
    return __dmul_rn(side(box[0], box[2]), side(box[1], box[3]));
}

DEVICE int box_covers(const float *better, const float *worse, double iou) {
    double across = side(fmax(better[0], worse[0]), fmin(better[2], worse[2]));
    double down = side(fmax(better[1], worse[1]), fmin(better[3], worse[3]));
    double shared = __dmul_rn(across, down);
    return shared > __dmul_rn(iou, area(better) + area(worse) - shared);
}

/* Says of each box which of the 64 in a word of ranks it covers, and of each whether it covers
 * any. blockIdx.y is the word, blockIdx.z the image; words before the box's own are not written. */
KERNEL find_covered(const float *corners, const int *labels, const int *ranked, const int *states,
                    const double *iou, uint64_t *covered, int *covering, int most, int words,
                    int agnostic) {
    int rank = blockIdx.x * blockDim.x + threadIdx.x, word = blockIdx.y, image = blockIdx.z;
    int count = states[STATES * image + RANKED], first = word * WORD;
    if (rank >= count || first >= count || first + WORD <= rank) return;
    int64_t offset = (int64_t)image * most;
    corners += BOX * offset;
    labels += offset;
    ranked += offset;
    int index = ranked[rank];
    float box[BOX];
    for (int i = 0; i < BOX; i++) box[i] = corners[BOX * index + i];
    uint64_t found = 0;
    for (int i = 0; i < WORD && first + i < count; i++) {
        int other = ranked[first + i];
        if (first + i <= rank || !(agnostic || labels[other] == labels[index])) continue;
        if (box_covers(box, corners + BOX * other, iou[image])) found |= (uint64_t)1 << i;
    }
    covered[((int64_t)image * words + word) * most + rank] = found;
    if (found) covering[offset + rank] = 1;
}

/* Lets the best box stay and what it covers go, and so on. One thread is one image: each step depends
 * on the one before. What it reads does not, and boxes that cover none need no step, so it waits for
 * little. */
KERNEL keep_boxes(const uint64_t *covered, const int *ranked, const int *covering, int *coverers,
                  int *kept, int *states, int most, int words) {
    int image = blockIdx.x;
    int64_t offset = (int64_t)image * most;
    ranked += offset;
    covering += offset;
    coverers += offset;
    kept += offset;
    int count = states[STATES * image + RANKED], stay = 0, cover = 0;
    for (int word = 0; word * WORD < count; word++) {
        const uint64_t *column = covered + ((int64_t)image * words + word) * most;
        int first = word * WORD, here = count - first < WORD ? count - first : WORD;
        uint64_t gone = 0, own[WORD];
#pragma unroll 8
        for (int i = 0; i < cover; i++) gone |= column[coverers[i]];
#pragma unroll 8
        for (int i = 0; i < here; i++) own[i] = column[first + i];
        for (int i = 0; i < here; i++) {
            if (gone >> i & 1) continue;
            gone |= own[i];
            kept[stay++] = ranked[first + i];
            if (covering[first + i]) coverers[cover++] = first + i;
        }
    }
    states[STATES * image + KEPT] = stay;
}
