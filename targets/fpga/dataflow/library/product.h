// Products with constant weights: what convolutions and dense layers compute once their windows are gathered.
//
// A Layer says: PIXELS of the result, GROUPS of channels, FOLDS of PE outputs in a group, STEPS of SIMD inputs;
// the types X, W, Acc and Out; `term(x, w)`, and `tail(fold, sums, ...)`, which finishes PE sums.
#pragma once

#include "fifo.h"
#include "integers.h"

/// Every output channel of a group from every input of the group. The inputs of a pixel come once and are
/// kept for the folds after the first.
template <class Layer, class... Joined>
void product(int frames, hls::stream<Vec<typename Layer::X, Layer::SIMD>>& in,
             hls::stream<Vec<typename Layer::Out, Layer::PE>>& out,
             const typename Layer::W (&weights)[Layer::PE][Layer::GROUPS * Layer::FOLDS * Layer::STEPS][Layer::SIMD],
             hls::stream<Joined>&... joined) {
#pragma HLS array_partition variable=weights dim=1 complete
#pragma HLS array_reshape variable=weights dim=3 complete
  typedef Vec<typename Layer::X, Layer::SIMD> Inputs;
  typedef Vec<typename Layer::Acc, Layer::PE> Sums;
  Inputs kept[Layer::STEPS] HARDY_UNSET;
#pragma HLS aggregate variable=kept compact=bit
  Sums sums = Sums();
#pragma HLS array_partition variable=sums.lane complete
  for (int pixel = 0; pixel < frames * Layer::PIXELS; ++pixel) {
    for (int group = 0; group < Layer::GROUPS; ++group) {
      for (int fold = 0; fold < Layer::FOLDS; ++fold) {
        for (int step = 0; step < Layer::STEPS; ++step) {
#pragma HLS pipeline II=1 style=flp
          Inputs x;
          if (fold == 0) {
            x = in.read();
            kept[step] = x;
          } else {
            x = kept[step];
          }
          const int place = (group * Layer::FOLDS + fold) * Layer::STEPS + step;
          for (int pe = 0; pe < Layer::PE; ++pe) {
#pragma HLS unroll
            typename Layer::Acc sum = step == 0 ? typename Layer::Acc(0) : sums.lane[pe];
            for (int i = 0; i < Layer::SIMD; ++i) {
#pragma HLS unroll
              sum += Layer::term(x.lane[i], weights[pe][place][i]);
            }
            sums.lane[pe] = sum;
          }
          if (step == Layer::STEPS - 1)
            out.write(Layer::tail(group * Layer::FOLDS + fold, sums, joined.read()...));
        }
      }
    }
  }
}
