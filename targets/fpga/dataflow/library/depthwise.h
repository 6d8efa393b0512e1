// Layers in which every output channel has one input channel: depthwise convolutions, averages, maxima.
//
// A Layer says: PIXELS of the result, FOLDS of PE channels, STEPS of TAPS of the window; types and `tail` as in
// product.h. In a token of the input, lane i of tap t is lane t * PE + i.
#pragma once

#include "fifo.h"
#include "integers.h"

/// Sums over windows.
template <class Layer, class... Joined>
void depthwise(int frames, hls::stream<Vec<typename Layer::X, Layer::TAPS * Layer::PE>>& in,
               hls::stream<Vec<typename Layer::Out, Layer::PE>>& out,
               const typename Layer::W (&weights)[Layer::PE][Layer::FOLDS * Layer::STEPS][Layer::TAPS],
               hls::stream<Joined>&... joined) {
#pragma HLS array_partition variable=weights dim=1 complete
#pragma HLS array_reshape variable=weights dim=3 complete
  Vec<typename Layer::Acc, Layer::PE> sums = Vec<typename Layer::Acc, Layer::PE>();
#pragma HLS array_partition variable=sums.lane complete
  for (int pixel = 0; pixel < frames * Layer::PIXELS; ++pixel) {
    for (int fold = 0; fold < Layer::FOLDS; ++fold) {
      for (int step = 0; step < Layer::STEPS; ++step) {
#pragma HLS pipeline II=1 style=flp
        const Vec<typename Layer::X, Layer::TAPS * Layer::PE> x = in.read();
        for (int pe = 0; pe < Layer::PE; ++pe) {
#pragma HLS unroll
          typename Layer::Acc sum = step == 0 ? typename Layer::Acc(0) : sums.lane[pe];
          for (int t = 0; t < Layer::TAPS; ++t) {
#pragma HLS unroll
            sum += Layer::term(x.lane[t * Layer::PE + pe], weights[pe][fold * Layer::STEPS + step][t]);
          }
          sums.lane[pe] = sum;
        }
        if (step == Layer::STEPS - 1) out.write(Layer::tail(fold, sums, joined.read()...));
      }
    }
  }
}

/// Sums over a whole image, for which no window has to be gathered: STEPS pixels, of which one is made.
template <class Layer, class... Joined>
void whole_image(int frames, hls::stream<Vec<typename Layer::X, Layer::PE>>& in,
                 hls::stream<Vec<typename Layer::Out, Layer::PE>>& out,
                 const typename Layer::W (&weights)[Layer::PE][Layer::FOLDS * Layer::STEPS][1],
                 hls::stream<Joined>&... joined) {
#pragma HLS array_partition variable=weights dim=1 complete
  Vec<typename Layer::Acc, Layer::PE> sums[Layer::FOLDS] HARDY_UNSET;
#pragma HLS aggregate variable=sums compact=bit
  for (int frame = 0; frame < frames; ++frame) {
    for (int step = 0; step < Layer::STEPS; ++step) {
      for (int fold = 0; fold < Layer::FOLDS; ++fold) {
#pragma HLS pipeline II=1 style=flp
        const Vec<typename Layer::X, Layer::PE> x = in.read();
        Vec<typename Layer::Acc, Layer::PE> next;
        for (int pe = 0; pe < Layer::PE; ++pe) {
#pragma HLS unroll
          const typename Layer::Acc sum = step == 0 ? typename Layer::Acc(0) : sums[fold].lane[pe];
          next.lane[pe] = sum + Layer::term(x.lane[pe], weights[pe][fold * Layer::STEPS + step][0]);
        }
        sums[fold] = next;
        if (step == Layer::STEPS - 1) out.write(Layer::tail(fold, next, joined.read()...));
      }
    }
  }
}

/// Maxima over windows.
template <class Layer, class... Joined>
void max_pool(int frames, hls::stream<Vec<typename Layer::X, Layer::TAPS * Layer::PE>>& in,
              hls::stream<Vec<typename Layer::Out, Layer::PE>>& out, hls::stream<Joined>&... joined) {
  Vec<typename Layer::Acc, Layer::PE> most = Vec<typename Layer::Acc, Layer::PE>();
#pragma HLS array_partition variable=most.lane complete
  for (int pixel = 0; pixel < frames * Layer::PIXELS; ++pixel) {
    for (int fold = 0; fold < Layer::FOLDS; ++fold) {
      for (int step = 0; step < Layer::STEPS; ++step) {
#pragma HLS pipeline II=1 style=flp
        const Vec<typename Layer::X, Layer::TAPS * Layer::PE> x = in.read();
        for (int pe = 0; pe < Layer::PE; ++pe) {
#pragma HLS unroll
          for (int t = 0; t < Layer::TAPS; ++t) {
#pragma HLS unroll
            const typename Layer::X candidate = x.lane[t * Layer::PE + pe];
            if ((step == 0 && t == 0) || candidate > most.lane[pe]) most.lane[pe] = candidate;
          }
        }
        if (step == Layer::STEPS - 1) out.write(Layer::tail(fold, most, joined.read()...));
      }
    }
  }
}

/// A layer that is nothing but a tail: FOLDS vectors of PE channels in each of PIXELS.
template <class Layer, class... Joined>
void elementwise(int frames, hls::stream<Vec<typename Layer::Acc, Layer::PE>>& in,
                 hls::stream<Vec<typename Layer::Out, Layer::PE>>& out, hls::stream<Joined>&... joined) {
  for (int pixel = 0; pixel < frames * Layer::PIXELS; ++pixel) {
    for (int fold = 0; fold < Layer::FOLDS; ++fold) {
#pragma HLS pipeline II=1 style=flp
      const Vec<typename Layer::Acc, Layer::PE> x = in.read();
      out.write(Layer::tail(fold, x, joined.read()...));
    }
  }
}
