// Fetch: reads the program in bursts and hands every instruction to the queue that runs it.

#include "vta.h"

extern "C" void vta_fetch(UInt<32> instruction_count, const Instruction* instructions,
                          InstructionQueue& load_queue, InstructionQueue& compute_queue,
                          InstructionQueue& store_queue) {
#pragma HLS interface mode=s_axilite port=instruction_count bundle=control offset=@fetch.instruction_count@
#pragma HLS interface mode=s_axilite port=instructions bundle=control offset=@fetch.instructions@
#pragma HLS interface mode=s_axilite port=return bundle=control
#pragma HLS interface mode=m_axi port=instructions bundle=instructions offset=slave @burst_read@
#pragma HLS interface mode=axis port=load_queue
#pragma HLS interface mode=axis port=compute_queue
#pragma HLS interface mode=axis port=store_queue
  for (UInt<32> n = 0; n < instruction_count; n++) {
#pragma HLS pipeline II=1
    const Instruction instruction = instructions[n];
    switch (queue_of(instruction)) {
      case Queue::LOAD:
        load_queue.write(instruction);
        break;
      case Queue::COMPUTE:
        compute_queue.write(instruction);
        break;
      case Queue::STORE:
        store_queue.write(instruction);
        break;
    }
  }
}
