// The vectors of the target this file is compiled for.
//
// Lanes<B> is a vector of kCount bit patterns of type B (16, 32 or 64 bits):
//   V, Mask                     the vector; one truth value a lane
//   load, store                 any alignment
//   stream, fence, kStreams     a store past the caches, V-aligned, and what must follow the last;
//                               kStreams: whether the target has one (else it is a store)
//   set, add                    one value in every lane; wrapping addition
//   greater, equal, nonzero     -> Mask; greater compares as signed integers
//   bits(Mask), mask(bits)      lane i is bit i; in mask() bits beyond kCount are ignored
//   keep(v, Mask)               zero in the other lanes
//   compress(out, v, bits)      writes the lanes whose bit is set to `out` and returns the end of
//                               them; up to kCount elements from the old `out` are overwritten
//   expand(in, bits)            the inverse, which advances `in`; up to kCount elements are read
// CodeGroup is 64 bytes and their bit planes.
// FloatLanes<T>, for pools and batch norms, is explained in pool_lanes.h, Columns<T> in columns.h.
#pragma once

#if defined(__AVX512F__)
#include "lanes_avx512.h"
#elif defined(__AVX2__)
#include "lanes_avx2.h"
#elif defined(__ARM_NEON)
#include "lanes_neon.h"
#endif
