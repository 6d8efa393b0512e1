// Load: fills the input and weight buffers.

#include "dma.h"
#include "vta.h"

extern "C" void vta_load(const InpBeat* inputs, const WgtBeat* weights, InstructionQueue& load_queue,
                         TokenQueue& compute_to_load, TokenQueue& load_to_compute,
                         InpBank inp_mem[INP_DEPTH][INP_BANKS], WgtBank wgt_mem[WGT_DEPTH][WGT_BANKS]) {
#pragma HLS interface mode=s_axilite port=inputs bundle=control offset=@load.inputs@
#pragma HLS interface mode=s_axilite port=weights bundle=control offset=@load.weights@
#pragma HLS interface mode=s_axilite port=return bundle=control
#pragma HLS interface mode=m_axi port=inputs bundle=data offset=slave @burst_read@
#pragma HLS interface mode=m_axi port=weights bundle=data offset=slave @burst_read@
#pragma HLS interface mode=axis port=load_queue
#pragma HLS interface mode=axis port=compute_to_load
#pragma HLS interface mode=axis port=load_to_compute
#pragma HLS interface mode=bram port=inp_mem storage_type=ram_1p latency=1
#pragma HLS interface mode=bram port=wgt_mem storage_type=ram_1p latency=1
#pragma HLS aggregate variable=inp_mem compact=bit
#pragma HLS array_partition variable=inp_mem type=complete dim=2
#pragma HLS aggregate variable=wgt_mem compact=bit
#pragma HLS array_partition variable=wgt_mem type=complete dim=2
  const MemoryFields fields = decode_memory(load_queue.read());
  VTA_REQUIRE(!fields.pop_prev && !fields.push_prev, "a load waits for or sends to the queue before its own");
  const Token go = fields.pop_next ? compute_to_load.read() : Token(1);
  if (!go) return;
  if (fields.memory_type == BUFFER_INP) {
    load_window<INP_DEPTH>(inputs, inp_mem, fields);
  } else {
    load_window<WGT_DEPTH>(weights, wgt_mem, fields);
  }
  if (fields.push_next) load_to_compute.write(1);
}
