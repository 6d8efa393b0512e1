// Modules that only move elements: other widths, copies, and the way from and to memory.
#pragma once

#include "fifo.h"
#include "integers.h"

/// TIMES tokens of LANES become one; TOKENS of the result in a frame.
template <class T, int LANES, int TIMES, int TOKENS>
void widen(int frames, hls::stream<Vec<T, LANES>>& in, hls::stream<Vec<T, LANES * TIMES>>& out) {
  Vec<T, LANES * TIMES> wide = Vec<T, LANES * TIMES>();
#pragma HLS array_partition variable=wide.lane complete
  for (int token = 0; token < frames * TOKENS; ++token) {
    for (int i = 0; i < TIMES; ++i) {
#pragma HLS pipeline II=1 style=flp
      const Vec<T, LANES> narrow = in.read();
      for (int lane = 0; lane < LANES * (TIMES - 1); ++lane) {
#pragma HLS unroll
        wide.lane[lane] = wide.lane[lane + LANES];
      }
      for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS unroll
        wide.lane[LANES * (TIMES - 1) + lane] = narrow.lane[lane];
      }
      if (i == TIMES - 1) out.write(wide);
    }
  }
}

/// A token of LANES * TIMES becomes TIMES of LANES; TOKENS of the input in a frame.
template <class T, int LANES, int TIMES, int TOKENS>
void narrow(int frames, hls::stream<Vec<T, LANES * TIMES>>& in, hls::stream<Vec<T, LANES>>& out) {
  Vec<T, LANES * TIMES> wide = Vec<T, LANES * TIMES>();
#pragma HLS array_partition variable=wide.lane complete
  for (int token = 0; token < frames * TOKENS; ++token) {
    for (int i = 0; i < TIMES; ++i) {
#pragma HLS pipeline II=1 style=flp
      if (i == 0) wide = in.read();
      Vec<T, LANES> part;
      for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS unroll
        part.lane[lane] = wide.lane[lane];
      }
      for (int lane = 0; lane < LANES * (TIMES - 1); ++lane) {
#pragma HLS unroll
        wide.lane[lane] = wide.lane[lane + LANES];
      }
      out.write(part);
    }
  }
}

/// Every token to each of the outputs; TOKENS in a frame.
template <int TOKENS, class T, class... Outs>
void copies(int frames, hls::stream<T>& in, hls::stream<T>& out, hls::stream<Outs>&... outs) {
  for (int token = 0; token < frames * TOKENS; ++token) {
#pragma HLS pipeline II=1 style=flp
    const T value = in.read();
    out.write(value);
    const int each[] = {0, (outs.write(value), 0)...};
    (void)each;
  }
}

/// Elements in memory, in the order of the stream; TOKENS of LANES in a frame.
template <class T, int LANES, int TOKENS, class Stored>
void load(int frames, const Stored* memory, hls::stream<Vec<T, LANES>>& out) {
  for (int token = 0; token < frames * TOKENS; ++token) {
#pragma HLS pipeline II=1 style=flp
    Vec<T, LANES> value;
    for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS unroll
      value.lane[lane] = T(memory[token * LANES + lane]);
    }
    out.write(value);
  }
}

/// The way back.
template <class T, int LANES, int TOKENS, class Stored>
void store(int frames, hls::stream<Vec<T, LANES>>& in, Stored* memory) {
  for (int token = 0; token < frames * TOKENS; ++token) {
#pragma HLS pipeline II=1 style=flp
    const Vec<T, LANES> value = in.read();
    for (int lane = 0; lane < LANES; ++lane) {
#pragma HLS unroll
      memory[token * LANES + lane] = Stored(value.lane[lane]);
    }
  }
}
