// C simulation refuses an instruction whose indices leave a buffer, before it runs.
#pragma once

#include "check.h"
#include "vta.h"

#ifdef __SYNTHESIS__
#define VTA_REQUIRE_INDICES(...)
#else
namespace vta {

/// The greatest of each index in an instruction: none decreases as its loops go on.
struct Reach {
  uint64_t dst = 0, src = 0, wgt = 0;

  template <class Fields>
  Reach(const Fields& fields, const UopElement (*uop_mem)[1]) {
    for (int n = static_cast<int>(fields.uop_begin); n < static_cast<int>(fields.uop_end); n++) {
      const UopFields uop = decode_uop(uop_mem[n][0].lane[0]);
      raise(dst, uop.dst);
      raise(src, uop.src);
      raise(wgt, uop.wgt);
    }
    const uint64_t outer = uint64_t(fields.loop_out) - 1, inner = uint64_t(fields.loop_in) - 1;
    dst += outer * uint64_t(fields.dst_out) + inner * uint64_t(fields.dst_in);
    src += outer * uint64_t(fields.src_out) + inner * uint64_t(fields.src_in);
  }

 private:
  static void raise(uint64_t& greatest, uint64_t index) {
    if (index > greatest) greatest = index;
  }
};

inline void require_below(const char* what, uint64_t index, uint64_t depth) {
  VTA_REQUIRE(index < depth, "%s %llu of %llu", what, static_cast<unsigned long long>(index),
              static_cast<unsigned long long>(depth));
}

template <class Fields>
void require_loops(const Fields& fields) {
  VTA_REQUIRE(fields.loop_out > 0 && fields.loop_in > 0 && fields.uop_begin < fields.uop_end,
              "loops of %d by %d over micro-ops %d to %d", static_cast<int>(fields.loop_out),
              static_cast<int>(fields.loop_in), static_cast<int>(fields.uop_begin),
              static_cast<int>(fields.uop_end));
  require_below("the last micro-op is", uint64_t(fields.uop_end) - 1, UOP_DEPTH);
}

inline void require_indices(const GemmFields& fields, const UopElement (*uop_mem)[1]) {
  require_loops(fields);
  Reach reach(fields, uop_mem);
  reach.wgt += (uint64_t(fields.loop_out) - 1) * uint64_t(fields.wgt_out) +
               (uint64_t(fields.loop_in) - 1) * uint64_t(fields.wgt_in);
  require_below("GEMM reaches accumulator", reach.dst, ACC_DEPTH);
  if (fields.reset) return;
  require_below("GEMM reaches input", reach.src, INP_DEPTH);
  require_below("GEMM reaches weight", reach.wgt, WGT_DEPTH);
}

inline void require_indices(const AluFields& fields, const UopElement (*uop_mem)[1]) {
  require_loops(fields);
  VTA_REQUIRE(fields.alu_opcode <= ALU_SHR, "the ALU has no operation %d", static_cast<int>(fields.alu_opcode));
  const Reach reach(fields, uop_mem);
  require_below("ALU reaches accumulator", reach.dst, ACC_DEPTH);
  if (!fields.use_imm) require_below("ALU reaches operand", reach.src, ACC_DEPTH);
}

}  // namespace vta

#define VTA_REQUIRE_INDICES(...) vta::require_indices(__VA_ARGS__)
#endif
