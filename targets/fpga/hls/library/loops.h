// The loops that GEMM and ALU run their micro-ops in, as one flat loop that starts a micro-op a cycle.
#pragma once

#include "vta_decode.h"

/// An index's offset: the outer loop's step adds to `row`, the inner loop's to `now`.
template <int BITS>
struct Offset {
  UInt<BITS> row = 0;
  UInt<BITS> now = 0;

  void step(bool outer, UInt<BITS> out, UInt<BITS> in) {
#pragma HLS inline
    if (outer) row = row + out;
    now = outer ? row : UInt<BITS>(now + in);
  }
};

/// Counts through micro-ops (innermost), inner and outer iterations.
template <class Fields>
struct Loops {
  UInt<UOP_END_BITS> uop;
  UInt<LOOP_BITS> inner = 0;
  UInt<LOOP_BITS> outer = 0;
  Offset<ACC_INDEX_BITS> dst;
  Offset<SRC_INDEX_BITS> src;
  Offset<WGT_INDEX_BITS> wgt;

  explicit Loops(const Fields& fields) : uop(fields.uop_begin) {
#pragma HLS inline
  }

  static bool empty(const Fields& fields) {
#pragma HLS inline
    return fields.uop_begin >= fields.uop_end || fields.loop_out == 0 || fields.loop_in == 0;
  }

  /// Goes to the next micro-op; false after the last.
  bool step(const Fields& fields) {
#pragma HLS inline
    uop++;
    if (uop != fields.uop_end) return true;
    uop = fields.uop_begin;
    inner++;
    const bool row_over = inner == fields.loop_in;
    dst.step(row_over, fields.dst_out, fields.dst_in);
    src.step(row_over, fields.src_out, fields.src_in);
    step_wgt(fields, row_over);
    if (!row_over) return true;
    inner = 0;
    outer++;
    return outer != fields.loop_out;
  }

 private:
  void step_wgt(const GemmFields& fields, bool row_over) {
#pragma HLS inline
    wgt.step(row_over, fields.wgt_out, fields.wgt_in);
  }
  void step_wgt(const AluFields&, bool) {}
};

/// The last `N` accumulators written: a micro-op sees them before the memory does.
template <int N>
struct Recent {
  UInt<ACC_INDEX_BITS> index[N];
  AccElement value[N];
  bool valid[N];

  Recent() {
#pragma HLS inline
#pragma HLS array_partition variable=index type=complete
#pragma HLS array_partition variable=value type=complete
#pragma HLS array_partition variable=valid type=complete
    for (int n = 0; n < N; n++) {
#pragma HLS unroll
      index[n] = 0;
      valid[n] = false;
    }
  }

  /// The newest value of an element, `stored` where none of the last writes went there.
  AccElement read(UInt<ACC_INDEX_BITS> at, const AccElement& stored) const {
#pragma HLS inline
    AccElement newest = stored;
#pragma HLS array_partition variable=newest.lane type=complete
    for (int n = N - 1; n >= 0; n--) {
#pragma HLS unroll
      if (valid[n] && index[n] == at) newest = value[n];
    }
    return newest;
  }

  void write(UInt<ACC_INDEX_BITS> at, const AccElement& written) {
#pragma HLS inline
    for (int n = N - 1; n > 0; n--) {
#pragma HLS unroll
      index[n] = index[n - 1];
      value[n] = value[n - 1];
      valid[n] = valid[n - 1];
    }
    index[0] = at;
    value[0] = written;
    valid[0] = true;
  }
};
