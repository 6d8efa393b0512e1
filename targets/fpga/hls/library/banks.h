// Elements and the banks that buffers keep them in: bank 0 holds the first lanes.
#pragma once

#include "integers.h"

template <class T, int LANES, int BANKS>
Vec<T, LANES * BANKS> get(const Vec<T, LANES> (&banks)[BANKS]) {
#pragma HLS inline
  Vec<T, LANES * BANKS> element;
#pragma HLS array_partition variable=element.lane type=complete
  for (int bank = 0; bank < BANKS; bank++) {
#pragma HLS unroll
    for (int lane = 0; lane < LANES; lane++) {
#pragma HLS unroll
      element.lane[bank * LANES + lane] = banks[bank].lane[lane];
    }
  }
  return element;
}

template <class T, int LANES, int BANKS>
void put(Vec<T, LANES> (&banks)[BANKS], const Vec<T, LANES * BANKS>& element) {
#pragma HLS inline
  for (int bank = 0; bank < BANKS; bank++) {
#pragma HLS unroll
    for (int lane = 0; lane < LANES; lane++) {
#pragma HLS unroll
      banks[bank].lane[lane] = element.lane[bank * LANES + lane];
    }
  }
}
