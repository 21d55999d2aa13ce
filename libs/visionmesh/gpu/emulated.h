/* What CUDA offers to kernels, for a C compiler (C11): the threads run one after the other. */

#include <math.h>
#include <stdint.h>

#define KERNEL void
#define DEVICE static inline

struct emulated_index { unsigned x, y, z; };
static _Thread_local struct emulated_index threadIdx, blockIdx, blockDim, gridDim;

DEVICE uint16_t half_of(float value) {
    union { _Float16 half; uint16_t bits; } both = { .half = (_Float16)value };
    return both.bits;
}

DEVICE float float_of(uint16_t bits) {
    union { uint16_t bits; _Float16 half; } both = { .bits = bits };
    return (float)both.half;
}

/* Products that are rounded before anything is added to them; nothing is fused here anyway. */
DEVICE float __fmul_rn(float a, float b) { return a * b; }
DEVICE double __dmul_rn(double a, double b) { return a * b; }

/* A sum, and the products of four bytes with four others. */
DEVICE uint32_t __dp4a(uint32_t four, uint32_t others, uint32_t sum) {
    for (int at = 0; at < 32; at += 8) sum += (four >> at & 255) * (others >> at & 255);
    return sum;
}

/* Loads of what no kernel writes meanwhile. */
#define __ldg(pointer) (*(pointer))

DEVICE int atomicAdd(int *counter, int more) {
    int before = *counter;
    *counter = before + more;
    return before;
}
