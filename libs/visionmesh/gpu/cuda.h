/* What kernels may use besides plain C, for NVRTC; emulated.h offers the same to a C compiler. */

typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef int int32_t;
typedef unsigned long long uint64_t;
typedef long long int64_t;

#define KERNEL extern "C" __global__ void
#define DEVICE static __device__ __forceinline__

/* IEEE binary16, rounded to the nearest even; without headers of the toolkit, which may be absent. */
DEVICE uint16_t half_of(float value) {
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

DEVICE float float_of(uint16_t bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
