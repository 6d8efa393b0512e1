// Copies between DRAM and the buffers: 2D windows, in bursts as long as the rows allow.
#pragma once

#include "banks.h"
#include "check.h"
#include "vta_decode.h"

// Elements counted or numbered: a window is at most 2^16 rows of 2^16 elements.
using Count = UInt<33>;

#define VTA_REQUIRE_ROOM(what, sram_at, count, depth)                              \
  VTA_REQUIRE((sram_at) + (count) <= (depth), what " ends at element %lld of %d",  \
              static_cast<long long>((sram_at) + (count)), depth)
#define VTA_REQUIRE_DRAM(what, dram_at, count, bytes)                              \
  VTA_REQUIRE((uint64_t(dram_at) + uint64_t(count)) * (bytes) <= vta::dram_bytes(), \
              what " ends at byte %lld of %lld of DRAM",                           \
              static_cast<long long>((uint64_t(dram_at) + uint64_t(count)) * (bytes)), \
              static_cast<long long>(vta::dram_bytes()))

/// Reads `count` elements from element `dram_at` on, one beat a cycle.
template <int DEPTH, class T, int BEAT_LANES, int BANK_LANES, int BANKS>
void read_elements(const Vec<T, BEAT_LANES>* dram, Vec<T, BANK_LANES> sram[DEPTH][BANKS], UInt<32> dram_at,
                   Count sram_at, Count count) {
#pragma HLS inline
  constexpr int BEATS = BANKS * BANK_LANES / BEAT_LANES;
  VTA_REQUIRE_ROOM("a load", sram_at, count, DEPTH);
  VTA_REQUIRE_DRAM("a load", dram_at, count, sizeof(Vec<T, BANK_LANES>) * BANKS);
  const uint64_t first = uint64_t(dram_at) * BEATS;
  Vec<T, BANK_LANES * BANKS> element;
#pragma HLS array_partition variable=element.lane type=complete
  for (uint32_t n = 0; n < count; n++) {
    for (int beat = 0; beat < BEATS; beat++) {
#pragma HLS loop_flatten
#pragma HLS pipeline II=1
      const Vec<T, BEAT_LANES> in = dram[first + n * BEATS + beat];
      for (int lane = 0; lane < BEAT_LANES; lane++) {
#pragma HLS unroll
        element.lane[beat * BEAT_LANES + lane] = in.lane[lane];
      }
      if (beat == BEATS - 1) put(sram[uint32_t(sram_at) + n], element);
    }
  }
}

/// Writes zeros, one element a cycle.
template <int DEPTH, class T, int BANK_LANES, int BANKS>
void zero_elements(Vec<T, BANK_LANES> sram[DEPTH][BANKS], Count sram_at, Count count) {
#pragma HLS inline
  VTA_REQUIRE_ROOM("a pad", sram_at, count, DEPTH);
  for (uint32_t n = 0; n < count; n++) {
#pragma HLS pipeline II=1
    Vec<T, BANK_LANES * BANKS> zero;
#pragma HLS array_partition variable=zero.lane type=complete
    for (int lane = 0; lane < BANK_LANES * BANKS; lane++) {
#pragma HLS unroll
      zero.lane[lane] = 0;
    }
    put(sram[uint32_t(sram_at) + n], zero);
  }
}

/// A load: its window of DRAM, with zeros around it. Rows that follow each other in DRAM are one burst.
template <int DEPTH, class T, int BEAT_LANES, int BANK_LANES, int BANKS>
void load_window(const Vec<T, BEAT_LANES>* dram, Vec<T, BANK_LANES> sram[DEPTH][BANKS],
                    const MemoryFields& window) {
#pragma HLS inline
  if (window.x_size == 0) return;
  const Count width = Count(window.x_pad_before) + window.x_size + window.x_pad_after;
  const bool one_burst = window.x_stride == window.x_size && width == window.x_size;
  const Count rows = one_burst ? Count(1) : Count(window.y_size);
  const Count row_size = one_burst ? Count(Count(window.x_size) * window.y_size) : Count(window.x_size);
  const Count above = width * window.y_pad_before;
  const Count below = width * window.y_pad_after;
  Count sram_at = window.sram;
  UInt<32> dram_at = window.dram;
  zero_elements<DEPTH>(sram, sram_at, above);
  sram_at += above;
  for (Count row = 0; row < rows; row++) {
    zero_elements<DEPTH>(sram, sram_at, Count(window.x_pad_before));
    sram_at += window.x_pad_before;
    read_elements<DEPTH>(dram, sram, dram_at, sram_at, row_size);
    sram_at += row_size;
    zero_elements<DEPTH>(sram, sram_at, Count(window.x_pad_after));
    sram_at += window.x_pad_after;
    dram_at += window.x_stride;
  }
  zero_elements<DEPTH>(sram, sram_at, below);
}

/// Writes `count` elements to element `dram_at` on, one beat a cycle.
template <int DEPTH, class T, int BEAT_LANES, int BANK_LANES, int BANKS>
void write_elements(Vec<T, BEAT_LANES>* dram, const Vec<T, BANK_LANES> sram[DEPTH][BANKS], UInt<32> dram_at,
                    Count sram_at, Count count) {
#pragma HLS inline
  constexpr int BEATS = BANKS * BANK_LANES / BEAT_LANES;
  VTA_REQUIRE_ROOM("a store", sram_at, count, DEPTH);
  VTA_REQUIRE_DRAM("a store", dram_at, count, sizeof(Vec<T, BANK_LANES>) * BANKS);
  const uint64_t first = uint64_t(dram_at) * BEATS;
  for (uint32_t n = 0; n < count; n++) {
    for (int beat = 0; beat < BEATS; beat++) {
#pragma HLS loop_flatten
#pragma HLS pipeline II=1
      const Vec<T, BANK_LANES * BANKS> element = get(sram[uint32_t(sram_at) + n]);
#pragma HLS array_partition variable=element.lane type=complete
      Vec<T, BEAT_LANES> out;
#pragma HLS array_partition variable=out.lane type=complete
      for (int lane = 0; lane < BEAT_LANES; lane++) {
#pragma HLS unroll
        out.lane[lane] = element.lane[beat * BEAT_LANES + lane];
      }
      dram[first + n * BEATS + beat] = out;
    }
  }
}

/// A store: its window of DRAM.
template <int DEPTH, class T, int BEAT_LANES, int BANK_LANES, int BANKS>
void store_window(Vec<T, BEAT_LANES>* dram, const Vec<T, BANK_LANES> sram[DEPTH][BANKS],
                     const MemoryFields& window) {
#pragma HLS inline
  if (window.x_size == 0) return;
  const bool one_burst = window.x_stride == window.x_size;
  const Count rows = one_burst ? Count(1) : Count(window.y_size);
  const Count row_size = one_burst ? Count(Count(window.x_size) * window.y_size) : Count(window.x_size);
  Count sram_at = window.sram;
  UInt<32> dram_at = window.dram;
  for (Count row = 0; row < rows; row++) {
    write_elements<DEPTH>(dram, sram, dram_at, sram_at, row_size);
    sram_at += row_size;
    dram_at += window.x_stride;
  }
}
