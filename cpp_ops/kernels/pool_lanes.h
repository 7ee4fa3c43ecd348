// The floating-point vectors of the target this file is compiled for, with what max pools and batch
// norms need.
//
// FloatLanes<T> is a vector of kCount values of type T (float or double):
//   V, Mask, Codes              values; one truth value a lane; one code a lane
//   load, store, set            any alignment; one value in every lane
//   stream, fence               as in lanes.h
//   load_lanes(p, low, high)    lanes low <= i < high from p[i], zero in the others; nothing else
//                               is touched
//   store_n(p, v, n)            the first n lanes
//   relu(v)                     NaN and -0.0 stay
//   better(v, best) -> Mask     v > best, or v is NaN
//   passes(v) -> Mask           not v <= 0
//   negative_zero(v) -> Mask    v is -0.0
//   first(n) -> Mask            the first n lanes
//   bits(Mask)                  lane i is bit i
//   choose(mask, a, b)          a where the mask is set; of V and of Codes
//   fma(x, a, b)                x * a + b, rounded once
//   pick(v, offsets)            lane i is lane offsets[i] of v; offsets are as wide as values
//   codes(c), load_codes, load_codes_lanes, store_codes, store_codes_n, equal -> Mask
//   add_where(sum, v, mask)     sum + v where the mask is set; of two NaNs the sum's payload stays
//   deinterleave(a, b, even, odd), interleave(even, odd, a, b)
#pragma once

#if defined(__AVX512F__)
#include "pool_lanes_avx512.h"
#elif defined(__AVX2__)
#include "pool_lanes_avx2.h"
#elif defined(__ARM_NEON)
#include "pool_lanes_neon.h"
#endif
