// ALU: a micro-op every two cycles, `acc[dst] = opcode(acc[dst], acc[src] or a constant)`.
#pragma once

#include "gemm.h"
#include "indices.h"
#include "loops.h"
#include "vta.h"

/// Shifts right, arithmetically, by the signed integer of the operand's low five bits; left where that is
/// negative.
inline Int<32> shift(Int<32> a, Int<32> operand) {
#pragma HLS inline
  const int by = static_cast<int>(UInt<32>(operand) & 31);
  const UInt<32> word = UInt<32>(a) & 0xffffffffu;
  return by < 16 ? Int<32>(a >> by) : Int<32>(word << (32 - by));
}

inline Int<32> operate(UInt<3> opcode, Int<32> a, Int<32> b) {
#pragma HLS inline
  switch (opcode) {
    case ALU_MIN:
      return a < b ? a : b;
    case ALU_MAX:
      return a < b ? b : a;
    case ALU_ADD:
      return add(a, b);
    default:
      return shift(a, b);
  }
}

/// Runs an instruction.
template <class AccMemory>
void run_alu(const AluFields& fields, const UopElement uop_mem[UOP_DEPTH][1], AccMemory& acc_mem,
             OutBank out_mem[OUT_DEPTH][OUT_BANKS]) {
#pragma HLS inline
  VTA_REQUIRE_INDICES(fields, uop_mem);
  Loops<AluFields> loops(fields);
  // The memory has two ports: two reads, then a write. The one result under way is in `recent`, so that a read
  // finds in memory what was written two micro-ops ago or earlier.
  Recent<1> recent;
  bool more = !Loops<AluFields>::empty(fields);
  while (more) {
#pragma HLS pipeline II=2
#pragma HLS dependence variable=acc_mem type=inter direction=RAW distance=2 true
    const UopFields uop = decode_uop(uop_mem[loops.uop][0].lane[0]);
    const UInt<ACC_INDEX_BITS> dst = uop.dst + loops.dst.now;
    const UInt<SRC_INDEX_BITS> src = uop.src + loops.src.now;
    const UInt<ACC_INDEX_BITS> other = fields.use_imm ? dst : UInt<ACC_INDEX_BITS>(src);
    const AccElement stored = get(acc_mem[dst]);
#pragma HLS array_partition variable=stored.lane type=complete
    const AccElement stored_other = get(acc_mem[other]);
#pragma HLS array_partition variable=stored_other.lane type=complete
    const AccElement a = recent.read(dst, stored);
#pragma HLS array_partition variable=a.lane type=complete
    const AccElement b = recent.read(other, stored_other);
#pragma HLS array_partition variable=b.lane type=complete
    AccElement after;
#pragma HLS array_partition variable=after.lane type=complete
    OutElement out;
#pragma HLS array_partition variable=out.lane type=complete
    for (int lane = 0; lane < BATCH * BLOCK; lane++) {
#pragma HLS unroll
      const Int<32> operand = fields.use_imm ? Int<32>(fields.imm) : b.lane[lane];
      after.lane[lane] = operate(fields.alu_opcode, a.lane[lane], operand);
      out.lane[lane] = Int<8>(after.lane[lane]);
    }
    put(acc_mem[dst], after);
    put(out_mem[dst], out);
    recent.write(dst, after);
    more = loops.step(fields);
  }
}
