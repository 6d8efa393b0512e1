// GEMM and ALU on an accumulator memory whose writes land some micro-ops late, against one without delay.
//
// Prints the number of random instructions whose memories differ. DELAY_GEMM and DELAY_ALU are in micro-ops: a write
// is seen by the micro-op that comes so many after it.

#include <cstdio>
#include <deque>
#include <random>
#include <utility>

#include "alu.h"
#include "gemm.h"

namespace {

class DelayedMemory {
 public:
  struct Row {
    DelayedMemory& memory;
    std::size_t index;
  };

  explicit DelayedMemory(std::size_t delay) : delay(delay) {}

  Row operator[](std::size_t index) { return Row{*this, index}; }

  void land(std::size_t left) {
    for (; pending.size() > left; pending.pop_front()) stored[pending.front().first] = pending.front().second;
  }

  void write(std::size_t index, const AccElement& value) {
    pending.emplace_back(index, value);
    land(delay - 1);
  }

  AccElement stored[ACC_DEPTH];

 private:
  std::size_t delay;
  std::deque<std::pair<std::size_t, AccElement>> pending;
};

AccElement get(const DelayedMemory::Row& row) { return row.memory.stored[row.index]; }
void put(const DelayedMemory::Row& row, const AccElement& value) { row.memory.write(row.index, value); }

std::mt19937 random_bits(0);
int draw(int below) { return static_cast<int>(random_bits() % static_cast<unsigned>(below)); }

UopElement uops[UOP_DEPTH][1];
InpBank inp[INP_DEPTH][INP_BANKS];
WgtBank wgt[WGT_DEPTH][WGT_BANKS];
OutBank out[OUT_DEPTH][OUT_BANKS], delayed_out[OUT_DEPTH][OUT_BANKS];
AccElement plain[ACC_DEPTH][1];

template <class Fields>
Fields loops() {
  Fields fields{};
  fields.uop_end = 1 + draw(6);
  fields.loop_out = 1 + draw(3);
  fields.loop_in = 1 + draw(4);
  fields.dst_in = draw(2);
  fields.src_in = draw(2);
  return fields;
}

template <class Run>
int differences(int delay, Run run) {
  int count = 0;
  for (int n = 0; n < 200; n++) {
    DelayedMemory delayed(static_cast<std::size_t>(delay));
    for (int at = 0; at < ACC_DEPTH; at++)
      for (int lane = 0; lane < BATCH * BLOCK; lane++)
        plain[at][0].lane[lane] = delayed.stored[at].lane[lane] = static_cast<int>(random_bits());
    for (int at = 0; at < 6; at++) uops[at][0].lane[0] = draw(4) | draw(4) << ACC_INDEX_BITS;
    run(delayed);
    delayed.land(0);
    bool same = true;
    for (int at = 0; at < ACC_DEPTH; at++)
      for (int lane = 0; lane < BATCH * BLOCK; lane++)
        same = same && plain[at][0].lane[lane] == delayed.stored[at].lane[lane];
    count += !same;
  }
  return count;
}

}  // namespace

int main() {
  for (auto& element : inp)
    for (auto& bank : element)
      for (auto& lane : bank.lane) lane = draw(256) - 128;
  for (auto& element : wgt)
    for (auto& bank : element)
      for (auto& lane : bank.lane) lane = draw(256) - 128;
  const int gemm = differences(DELAY_GEMM, [](DelayedMemory& delayed) {
    const GemmFields fields = loops<GemmFields>();
    run_gemm(fields, uops, inp, wgt, plain, out);
    run_gemm(fields, uops, inp, wgt, delayed, delayed_out);
  });
  const int alu = differences(DELAY_ALU, [](DelayedMemory& delayed) {
    AluFields fields = loops<AluFields>();
    fields.alu_opcode = ALU_ADD;
    run_alu(fields, uops, plain, out);
    run_alu(fields, uops, delayed, delayed_out);
  });
  std::printf("%d %d\n", gemm, alu);
  return 0;
}
