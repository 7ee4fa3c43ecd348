// Columns of several planes at once, of the target this file is compiled for: what sums over many
// planes side by side need.
//
// Columns<T> looks at kPlanes planes of values of type T (float or double):
//   V                     one value of each plane
//   Sum                   one double a plane
//   load(p)               of an array of kPlanes values
//   column(planes, i)     element i of each plane
//   four(planes, i, out)  elements i ... i + 3, by columns
//   zero, add(sum, v)     sums; v is widened
//   store(p, sum)         kPlanes doubles
//   square_from(v, mean)  (v - mean) * (v - mean) in T, with two roundings
// kGroups: how many of them, side by side, keep the adders busy while each waits for its last sum.
#pragma once

#if defined(__AVX512F__)
#include "columns_avx512.h"
#elif defined(__AVX2__)
#include "columns_avx2.h"
#elif defined(__ARM_NEON)
#include "columns_neon.h"
#endif
