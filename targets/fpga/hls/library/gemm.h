// GEMM: one micro-op a cycle, `acc[dst] += inp[src] x wgt[wgt]` transposed, or `acc[dst] = 0`.
#pragma once

#include "indices.h"
#include "loops.h"
#include "vta.h"

// The sum of BLOCK products of two 8-bit integers.
using Sum = Int<16 + LOG_BLOCK>;

/// Two products with one factor in common, of one multiplier of 25 by 8 bits: the upper one's multiple of 2^16
/// lies above the lower one, which borrows 1 from it where it is negative.
inline void multiply_pair(Int<8> upper, Int<8> lower, Int<8> common, Int<16>& upper_product,
                          Int<16>& lower_product) {
#pragma HLS inline
  const Int<25> pair = Int<25>(upper) * 65536 + lower;
  const Int<32> product = Int<32>(pair * common);
#pragma HLS bind_op variable=product op=mul impl=dsp
  lower_product = Int<16>(product);
  upper_product = Int<16>((product >> 16) + (lower_product < 0 ? 1 : 0));
}

/// The products of one input row with every weight row: BLOCK sums.
inline void multiply(const InpElement& inp, const WgtElement& wgt, int row, Sum sums[BLOCK]) {
#pragma HLS inline
  for (int out = 0; out < BLOCK; out += PAIR_PRODUCTS ? 2 : 1) {
#pragma HLS unroll
    Sum sum = 0, upper_sum = 0;
    for (int in = 0; in < BLOCK; in++) {
#pragma HLS unroll
      const Int<8> common = inp.lane[row * BLOCK + in];
      const Int<8> lower = wgt.lane[out * BLOCK + in];
      if (PAIR_PRODUCTS) {
        const Int<8> upper = wgt.lane[(out + 1) * BLOCK + in];
        Int<16> upper_product, lower_product;
        multiply_pair(upper, lower, common, upper_product, lower_product);
        sum = Sum(sum + lower_product);
        upper_sum = Sum(upper_sum + upper_product);
      } else {
        const Int<16> product = Int<16>(common * lower);
#pragma HLS bind_op variable=product op=mul impl=dsp
        sum = Sum(sum + product);
      }
    }
    sums[out] = sum;
    if (PAIR_PRODUCTS) sums[out + 1] = upper_sum;
  }
}

/// Sums of 32 bits that wrap.
inline Int<32> add(Int<32> a, Int<32> b) {
#pragma HLS inline
  return Int<32>(UInt<32>(UInt<32>(a) + UInt<32>(b)));
}

/// Runs an instruction.
template <class AccMemory>
void run_gemm(const GemmFields& fields, const UopElement uop_mem[UOP_DEPTH][1],
              const InpBank inp_mem[INP_DEPTH][INP_BANKS], const WgtBank wgt_mem[WGT_DEPTH][WGT_BANKS],
              AccMemory& acc_mem, OutBank out_mem[OUT_DEPTH][OUT_BANKS]) {
#pragma HLS inline
  VTA_REQUIRE_INDICES(fields, uop_mem);
  Loops<GemmFields> loops(fields);
  // An accumulator is read, added to and written in three cycles. `recent` holds the two that are under way, so
  // that a read finds in memory what was written three micro-ops ago or earlier: that is what the pragma says.
  Recent<2> recent;
  bool more = !Loops<GemmFields>::empty(fields);
  while (more) {
#pragma HLS pipeline II=1
#pragma HLS dependence variable=acc_mem type=inter direction=RAW distance=3 true
    const UopFields uop = decode_uop(uop_mem[loops.uop][0].lane[0]);
    const UInt<ACC_INDEX_BITS> dst = uop.dst + loops.dst.now;
    // A reset reads no operands; its other indices mean nothing and may lie outside the buffers.
    UInt<SRC_INDEX_BITS> src = uop.src + loops.src.now;
    UInt<WGT_INDEX_BITS> wgt = uop.wgt + loops.wgt.now;
    if (fields.reset) src = 0, wgt = 0;
    const InpElement inputs = get(inp_mem[src]);
#pragma HLS array_partition variable=inputs.lane type=complete
    const WgtElement weights = get(wgt_mem[wgt]);
#pragma HLS array_partition variable=weights.lane type=complete
    const AccElement stored = get(acc_mem[dst]);
#pragma HLS array_partition variable=stored.lane type=complete
    const AccElement before = recent.read(dst, stored);
#pragma HLS array_partition variable=before.lane type=complete
    AccElement after;
#pragma HLS array_partition variable=after.lane type=complete
    OutElement out;
#pragma HLS array_partition variable=out.lane type=complete
    for (int row = 0; row < BATCH; row++) {
#pragma HLS unroll
      Sum sums[BLOCK];
#pragma HLS array_partition variable=sums type=complete
      multiply(inputs, weights, row, sums);
      for (int n = 0; n < BLOCK; n++) {
#pragma HLS unroll
        const int lane = row * BLOCK + n;
        after.lane[lane] = fields.reset ? Int<32>(0) : add(before.lane[lane], sums[n]);
        out.lane[lane] = Int<8>(after.lane[lane]);
      }
    }
    put(acc_mem[dst], after);
    if (!fields.reset) put(out_mem[dst], out);
    recent.write(dst, after);
    more = loops.step(fields);
  }
}
