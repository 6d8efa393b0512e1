// Compute: multiplies and adds, and fills the micro-op and accumulator buffers.

#include "alu.h"
#include "dma.h"
#include "gemm.h"
#include "vta.h"

extern "C" void vta_compute(UInt<32>& done, const UopBeat* uops, const AccBeat* biases,
                            InstructionQueue& compute_queue, TokenQueue& load_to_compute,
                            TokenQueue& store_to_compute, TokenQueue& compute_to_load,
                            TokenQueue& compute_to_store, const InpBank inp_mem[INP_DEPTH][INP_BANKS],
                            const WgtBank wgt_mem[WGT_DEPTH][WGT_BANKS],
                            OutBank out_mem[OUT_DEPTH][OUT_BANKS]) {
#pragma HLS interface mode=s_axilite port=done bundle=control offset=@compute.done@
#pragma HLS interface mode=s_axilite port=uops bundle=control offset=@compute.uops@
#pragma HLS interface mode=s_axilite port=biases bundle=control offset=@compute.biases@
#pragma HLS interface mode=s_axilite port=return bundle=control
#pragma HLS interface mode=m_axi port=uops bundle=uops offset=slave @burst_read@
#pragma HLS interface mode=m_axi port=biases bundle=data offset=slave @burst_read@
#pragma HLS interface mode=axis port=compute_queue
#pragma HLS interface mode=axis port=load_to_compute
#pragma HLS interface mode=axis port=store_to_compute
#pragma HLS interface mode=axis port=compute_to_load
#pragma HLS interface mode=axis port=compute_to_store
#pragma HLS interface mode=bram port=inp_mem storage_type=ram_1p latency=1
#pragma HLS interface mode=bram port=wgt_mem storage_type=ram_1p latency=1
#pragma HLS interface mode=bram port=out_mem storage_type=ram_1p latency=1
#pragma HLS aggregate variable=inp_mem compact=bit
#pragma HLS array_partition variable=inp_mem type=complete dim=2
#pragma HLS aggregate variable=wgt_mem compact=bit
#pragma HLS array_partition variable=wgt_mem type=complete dim=2
#pragma HLS aggregate variable=out_mem compact=bit
#pragma HLS array_partition variable=out_mem type=complete dim=2
  static UopElement uop_mem[UOP_DEPTH][1];
#pragma HLS aggregate variable=uop_mem compact=bit
#pragma HLS bind_storage variable=uop_mem type=ram_2p impl=bram
  static AccElement acc_mem[ACC_DEPTH][1];
#pragma HLS aggregate variable=acc_mem compact=bit
#pragma HLS bind_storage variable=acc_mem type=ram_t2p impl=bram

  const Instruction instruction = compute_queue.read();
  const HeadFields head = decode_head(instruction);
  const Token from_load = head.pop_prev ? load_to_compute.read() : Token(1);
  const Token from_store = head.pop_next ? store_to_compute.read() : Token(1);
  if (!from_load || !from_store) return;
  UInt<32> finished = done;  // the host writes 0 before it starts; FINISH alone changes it
  switch (head.opcode) {
    case OPCODE_LOAD: {
      const MemoryFields fields = decode_memory(instruction);
      VTA_REQUIRE(fields.memory_type == BUFFER_UOP || fields.memory_type == BUFFER_ACC,
                  "the compute queue cannot load buffer %d", static_cast<int>(fields.memory_type));
      if (fields.memory_type == BUFFER_UOP) {
        load_window<UOP_DEPTH>(uops, uop_mem, fields);
      } else {
        load_window<ACC_DEPTH>(biases, acc_mem, fields);
      }
      break;
    }
    case OPCODE_GEMM:
      run_gemm(decode_gemm(instruction), uop_mem, inp_mem, wgt_mem, acc_mem, out_mem);
      break;
    case OPCODE_ALU:
      run_alu(decode_alu(instruction), uop_mem, acc_mem, out_mem);
      break;
    default:
      VTA_REQUIRE(head.opcode == OPCODE_FINISH, "there is no opcode %d", static_cast<int>(head.opcode));
      finished = 1;
  }
  if (head.push_prev) compute_to_load.write(1);
  if (head.push_next) compute_to_store.write(1);
  done = finished;
}
