// Integers of any width, and vectors of them: what streams carry.
//
// With HARDY_PLAIN_INTEGERS an integer is the smallest of the machine's signed ones that holds it. Values
// are the same, since hardy has computed the range of every one of them: nothing wraps in either form.
#pragma once

#ifdef HARDY_PLAIN_INTEGERS
#include <cstdint>
#include <type_traits>

template <int BITS>
using Int = typename std::conditional<
    (BITS <= 8), int8_t,
    typename std::conditional<(BITS <= 16), int16_t,
                              typename std::conditional<(BITS <= 32), int32_t, int64_t>::type>::type>::type;
template <int BITS>
using UInt = Int<BITS + 1>;
#else
#include <ap_int.h>

template <int BITS>
using Int = ap_int<BITS>;
template <int BITS>
using UInt = ap_uint<BITS>;
#endif

template <class T, int N>
struct Vec {
  T lane[N];
};
