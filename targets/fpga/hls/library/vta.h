// The accelerator's modules, and what passes between them.
//
// Four modules run side by side. `vta_fetch` reads the program and hands each instruction to the queue of
// the module that runs it. `vta_load` fills the input and weight buffers, `vta_compute` fills the micro-op and
// accumulator buffers and multiplies, `vta_store` writes outputs back. Each call of the last three runs one
// instruction; in hardware they restart by themselves. Tokens in four FIFOs keep them in step.
#pragma once

#include <hls_stream.h>

#include "banks.h"
#include "vta_decode.h"

// What an instruction waits for: 1. A scheduler may reorder what is independent, so what must not begin before
// a token has come is under a condition on its value; and what must be over before a token goes is inlined,
// so that its loops are states of the module before the one that sends it.
using Token = UInt<1>;

using InstructionQueue = hls::stream<Instruction>;
using TokenQueue = hls::stream<Token>;

// An element of a buffer: its lanes in the order of their addresses.
using InpElement = Vec<Int<8>, BATCH * BLOCK>;
using WgtElement = Vec<Int<8>, BLOCK * BLOCK>;
using AccElement = Vec<Int<32>, BATCH * BLOCK>;
using OutElement = Vec<Int<8>, BATCH * BLOCK>;
using UopElement = Vec<Int<32>, 1>;

// The part of an element that one beat of the memory port carries.
using InpBeat = Vec<Int<8>, INP_BEAT_BYTES>;
using WgtBeat = Vec<Int<8>, WGT_BEAT_BYTES>;
using AccBeat = Vec<Int<32>, ACC_BEAT_BYTES / 4>;
using OutBeat = Vec<Int<8>, OUT_BEAT_BYTES>;
using UopBeat = Vec<Int<32>, 1>;

// The part of an element that one block memory holds: the ports that modules share memories through have a
// greatest width. The buffers inside `vta_compute` have one bank.
using InpBank = Vec<Int<8>, BATCH * BLOCK / INP_BANKS>;
using WgtBank = Vec<Int<8>, BLOCK * BLOCK / WGT_BANKS>;
using OutBank = Vec<Int<8>, BATCH * BLOCK / OUT_BANKS>;

enum class Queue { LOAD, COMPUTE, STORE };

/// The queue that runs an instruction: loads of inputs and weights have one of their own.
inline Queue queue_of(const Instruction& instruction) {
#pragma HLS inline
  const MemoryFields fields = decode_memory(instruction);
  if (fields.opcode == OPCODE_STORE) return Queue::STORE;
  const bool load = fields.opcode == OPCODE_LOAD;
  const bool data = fields.memory_type == BUFFER_INP || fields.memory_type == BUFFER_WGT;
  return load && data ? Queue::LOAD : Queue::COMPUTE;
}

extern "C" {

void vta_fetch(UInt<32> instruction_count, const Instruction* instructions, InstructionQueue& load_queue,
               InstructionQueue& compute_queue, InstructionQueue& store_queue);

void vta_load(const InpBeat* inputs, const WgtBeat* weights, InstructionQueue& load_queue,
              TokenQueue& compute_to_load, TokenQueue& load_to_compute, InpBank inp_mem[INP_DEPTH][INP_BANKS],
              WgtBank wgt_mem[WGT_DEPTH][WGT_BANKS]);

void vta_compute(UInt<32>& done, const UopBeat* uops, const AccBeat* biases, InstructionQueue& compute_queue,
                 TokenQueue& load_to_compute, TokenQueue& store_to_compute, TokenQueue& compute_to_load,
                 TokenQueue& compute_to_store, const InpBank inp_mem[INP_DEPTH][INP_BANKS],
                 const WgtBank wgt_mem[WGT_DEPTH][WGT_BANKS], OutBank out_mem[OUT_DEPTH][OUT_BANKS]);

void vta_store(OutBeat* outputs, InstructionQueue& store_queue, TokenQueue& compute_to_store,
               TokenQueue& store_to_compute, const OutBank out_mem[OUT_DEPTH][OUT_BANKS]);

}
