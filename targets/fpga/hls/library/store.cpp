// Store: writes outputs to DRAM.

#include "dma.h"
#include "vta.h"

extern "C" void vta_store(OutBeat* outputs, InstructionQueue& store_queue, TokenQueue& compute_to_store,
                          TokenQueue& store_to_compute, const OutBank out_mem[OUT_DEPTH][OUT_BANKS]) {
#pragma HLS interface mode=s_axilite port=outputs bundle=control offset=@store.outputs@
#pragma HLS interface mode=s_axilite port=return bundle=control
#pragma HLS interface mode=m_axi port=outputs bundle=data offset=slave @burst_write@
#pragma HLS interface mode=axis port=store_queue
#pragma HLS interface mode=axis port=compute_to_store
#pragma HLS interface mode=axis port=store_to_compute
#pragma HLS interface mode=bram port=out_mem storage_type=ram_1p latency=1
#pragma HLS aggregate variable=out_mem compact=bit
#pragma HLS array_partition variable=out_mem type=complete dim=2
  const MemoryFields fields = decode_memory(store_queue.read());
  VTA_REQUIRE(!fields.pop_next && !fields.push_next, "a store waits for or sends to the queue after its own");
  VTA_REQUIRE(fields.memory_type == BUFFER_OUT, "a store reads buffer %d, it can read %d alone",
              static_cast<int>(fields.memory_type), BUFFER_OUT);
  const Token go = fields.pop_prev ? compute_to_store.read() : Token(1);
  if (!go) return;
  store_window<OUT_DEPTH>(outputs, out_mem, fields);
  if (fields.push_prev) store_to_compute.write(1);
}
