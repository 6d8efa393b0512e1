// Runs a program on the accelerator's modules: testbench PROGRAM DRAM-BEFORE DRAM-AFTER
//
// PROGRAM is the instruction stream, 16 bytes each; the DRAM files are images from address 0 on. The modules
// are processes that wait for each other at their FIFOs, which are as deep as the hardware's. Exit codes: 0,
// the program ran to FINISH; 1, it does something that hardware would get wrong; 2, a file; 3, deadlock. What
// is wrong is said on the error output, then the instruction that each queue was at.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "vta.h"

namespace {

constexpr int BAD_FILE = 2;
constexpr int QUEUES = 3;
const char* const QUEUE_NAMES[QUEUES] = {"load", "compute", "store"};

[[noreturn]] void fail_file(const std::string& path) {
  std::perror(path.c_str());
  std::exit(BAD_FILE);
}

// In words of 8 bytes, so that beats of any width are aligned; `size` is the file's.
std::vector<uint64_t> read_file(const std::string& path, std::size_t& size) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (!file || std::fseek(file, 0, SEEK_END)) fail_file(path);
  const long end = std::ftell(file);
  if (end < 0) fail_file(path);
  size = static_cast<std::size_t>(end);
  std::vector<uint64_t> words((size + 63) / 64 * 8, 0);
  std::rewind(file);
  if (std::fread(words.data(), 1, size, file) != size) fail_file(path);
  std::fclose(file);
  return words;
}

void write_file(const std::string& path, const void* data, std::size_t size) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (!file || std::fwrite(data, 1, size, file) != size || std::fclose(file)) fail_file(path);
}

/// Where each queue is: the numbers of its instructions in the program, and how many are over.
struct Progress {
  std::vector<std::size_t> numbers[QUEUES];
  std::size_t over[QUEUES] = {0, 0, 0};
  bool complete = false;

  bool idle(int queue) const { return over[queue] == numbers[queue].size(); }
};

Progress progress;

void report_progress() {
  if (progress.complete) return;
  for (int queue = 0; queue < QUEUES; queue++) {
    if (progress.idle(queue)) continue;
    std::fprintf(stderr, "%s queue: at instruction %zu\n", QUEUE_NAMES[queue],
                 progress.numbers[queue][progress.over[queue]]);
  }
}

/// Tokens that a program sends less those that it waits for, by FIFO.
struct Balance {
  long load_to_compute = 0, compute_to_load = 0, compute_to_store = 0, store_to_compute = 0;

  void count(Queue queue, const HeadFields& head) {
    switch (queue) {
      case Queue::LOAD:
        load_to_compute += head.push_next, compute_to_load -= head.pop_next;
        break;
      case Queue::COMPUTE:
        compute_to_load += head.push_prev, compute_to_store += head.push_next;
        load_to_compute -= head.pop_prev, store_to_compute -= head.pop_next;
        break;
      case Queue::STORE:
        store_to_compute += head.push_prev, compute_to_store -= head.pop_prev;
        break;
    }
  }
};

void require_consumed(long tokens, const char* fifo) {
  VTA_REQUIRE(tokens <= 0, "%ld tokens are left in %s at the end", tokens, fifo);
}

InpBank inp_mem[INP_DEPTH][INP_BANKS];
WgtBank wgt_mem[WGT_DEPTH][WGT_BANKS];
OutBank out_mem[OUT_DEPTH][OUT_BANKS];

hls::stream<Instruction, COMMAND_DEPTH> load_queue("load_queue");
hls::stream<Instruction, COMMAND_DEPTH> compute_queue("compute_queue");
hls::stream<Instruction, COMMAND_DEPTH> store_queue("store_queue");
hls::stream<Token, TOKEN_DEPTH> load_to_compute("load_to_compute");
hls::stream<Token, TOKEN_DEPTH> compute_to_load("compute_to_load");
hls::stream<Token, TOKEN_DEPTH> compute_to_store("compute_to_store");
hls::stream<Token, TOKEN_DEPTH> store_to_compute("store_to_compute");

/// A module in hardware restarts by itself: it runs as many instructions as its queue gets.
template <class Module>
void restart(Queue queue, Module module) {
  const int number = static_cast<int>(queue);
  while (!progress.idle(number)) {
    module();
    progress.over[number]++;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s PROGRAM DRAM-BEFORE DRAM-AFTER\n", argv[0]);
    return BAD_FILE;
  }
  std::size_t program_bytes = 0, dram_bytes = 0;
  std::vector<uint64_t> program = read_file(argv[1], program_bytes);
  std::vector<uint64_t> dram = read_file(argv[2], dram_bytes);
  vta::dram_bytes() = dram_bytes;

  const std::size_t count = program_bytes / sizeof(Instruction);
  const Instruction* const instructions = reinterpret_cast<const Instruction*>(program.data());
  VTA_REQUIRE(program_bytes % sizeof(Instruction) == 0, "a program is a multiple of %zu bytes, not %zu",
              sizeof(Instruction), program_bytes);
  Balance balance;
  for (std::size_t n = 0; n < count; n++) {
    const Queue queue = queue_of(instructions[n]);
    const HeadFields head = decode_head(instructions[n]);
    VTA_REQUIRE((head.opcode == OPCODE_FINISH) == (n + 1 == count),
                "FINISH must be the last instruction, and no other; instruction %zu of %zu is not so", n,
                count);
    progress.numbers[static_cast<int>(queue)].push_back(n);
    balance.count(queue, head);
  }
  VTA_REQUIRE(count > 0, "the program is empty");

  vta::context() = report_progress;
  std::atexit(report_progress);  // where the network stops with a deadlock
  UInt<32> done = 0;
  uint64_t* const memory = dram.data();
  hardy::network().start("vta_fetch", [&] {
    vta_fetch(UInt<32>(count), instructions, load_queue, compute_queue, store_queue);
  });
  hardy::network().start("vta_load", [&] {
    restart(Queue::LOAD, [&] {
      vta_load(reinterpret_cast<const InpBeat*>(memory), reinterpret_cast<const WgtBeat*>(memory), load_queue,
               compute_to_load, load_to_compute, inp_mem, wgt_mem);
    });
  });
  hardy::network().start("vta_compute", [&] {
    restart(Queue::COMPUTE, [&] {
      vta_compute(done, reinterpret_cast<const UopBeat*>(memory), reinterpret_cast<const AccBeat*>(memory),
                  compute_queue, load_to_compute, store_to_compute, compute_to_load, compute_to_store, inp_mem,
                  wgt_mem, out_mem);
      VTA_REQUIRE(done == 0 || (progress.idle(0) && progress.idle(2)),
                  "FINISH ran before the other queues were over: it must wait for their tokens");
    });
  });
  hardy::network().start("vta_store", [&] {
    restart(Queue::STORE, [&] {
      vta_store(reinterpret_cast<OutBeat*>(memory), store_queue, compute_to_store, store_to_compute, out_mem);
    });
  });
  hardy::network().run();

  progress.complete = true;
  require_consumed(balance.load_to_compute, "load_to_compute");
  require_consumed(balance.compute_to_load, "compute_to_load");
  require_consumed(balance.compute_to_store, "compute_to_store");
  require_consumed(balance.store_to_compute, "store_to_compute");
  write_file(argv[3], memory, dram_bytes);
  return 0;
}
