// Sliding windows over an image that comes row by row, a pixel's channels in GROUPS of LANES.
//
// A Window says: HEIGHT, WIDTH, GROUPS, LANES; for each axis KERNEL, STRIDE, DILATION and PAD before; OUT_HEIGHT and
// OUT_WIDTH; AHEAD, the most rows that are taken in at once; types In and Out; `inside(x)` and `outside()`, which give an element of the result.
#pragma once

#include "fifo.h"
#include "integers.h"

/// One tap at a time: for each position and group of channels, the taps in rows. While a row of positions is
/// sent, the rows that the next one needs are taken in: after the last row, those of the next frame.
template <class W>
void window_taps(int frames, hls::stream<Vec<typename W::In, W::LANES>>& in,
                 hls::stream<Vec<typename W::Out, W::LANES>>& out) {
  const int SPAN = (W::KERNEL_H - 1) * W::DILATION_H + 1;
  const int ROWS = SPAN + W::AHEAD;
  const int TAPS = W::KERNEL_H * W::KERNEL_W;
  const int SENT = W::OUT_WIDTH * W::GROUPS * TAPS;
  Vec<typename W::In, W::LANES> rows[ROWS * W::WIDTH * W::GROUPS] HARDY_UNSET;
#pragma HLS aggregate variable=rows compact=bit
#pragma HLS dependence variable=rows type=inter false
  int taken = 0;  // rows of this frame and, at its end, of the next
  int slot = 0;   // where the next row goes
  for (int frame = 0; frame < frames; ++frame) {
    for (int y = frame == 0 ? -1 : 0; y < W::OUT_HEIGHT; ++y) {
      // Rows that the positions of row y + 1 see, of row 0 of the next frame after the last.
      const bool last = y == W::OUT_HEIGHT - 1;
      const int end = (last ? 0 : y + 1) * W::STRIDE_H - W::PAD_TOP + SPAN;
      const int seen = end > W::HEIGHT ? int(W::HEIGHT) : end < 0 ? 0 : end;
      const int wanted = !last ? seen : frame == frames - 1 ? int(W::HEIGHT) : W::HEIGHT + seen;
      const int loads = (wanted - taken) * W::WIDTH * W::GROUPS;
      const int sends = y < 0 ? 0 : SENT;
      int place = 0;
      int x = 0, group = 0, tap_y = 0, tap_x = 0;
      const int first = taken;
      const int first_slot = slot;
      for (int i = 0; i < (loads > sends ? loads : sends); ++i) {
#pragma HLS pipeline II=1 style=flp
        if (i < loads) {
          rows[slot * W::WIDTH * W::GROUPS + place] = in.read();
          if (++place == W::WIDTH * W::GROUPS) {
            place = 0;
            ++taken;
            slot = slot == ROWS - 1 ? 0 : slot + 1;
          }
        }
        if (i < sends) {
          const int row = y * W::STRIDE_H - W::PAD_TOP + tap_y * W::DILATION_H;
          const int column = x * W::STRIDE_W - W::PAD_LEFT + tap_x * W::DILATION_W;
          Vec<typename W::Out, W::LANES> token;
          if (row >= 0 && row < W::HEIGHT && column >= 0 && column < W::WIDTH) {
            // Row `first` is the one that comes next when this row of positions begins.
            int from = first_slot - (first - row);
            if (from < 0) from += ROWS;
            const Vec<typename W::In, W::LANES> stored = rows[(from * W::WIDTH + column) * W::GROUPS + group];
            for (int lane = 0; lane < W::LANES; ++lane) {
#pragma HLS unroll
              token.lane[lane] = W::inside(stored.lane[lane]);
            }
          } else {
            for (int lane = 0; lane < W::LANES; ++lane) {
#pragma HLS unroll
              token.lane[lane] = W::outside();
            }
          }
          out.write(token);
          if (++tap_x == W::KERNEL_W) {
            tap_x = 0;
            if (++tap_y == W::KERNEL_H) {
              tap_y = 0;
              if (++group == W::GROUPS) {
                group = 0;
                ++x;
              }
            }
          }
        }
      }
    }
    taken -= W::HEIGHT;
  }
}

/// All taps at once: lane i of tap t is lane t * LANES + i of a token. The rows before are kept in line
/// buffers, the window in registers that shift.
template <class W>
void window_whole(int frames, hls::stream<Vec<typename W::In, W::LANES>>& in,
                  hls::stream<Vec<typename W::Out, W::LANES * W::KERNEL_H * W::KERNEL_W>>& out) {
  const int SPAN_H = (W::KERNEL_H - 1) * W::DILATION_H + 1;
  const int SPAN_W = (W::KERNEL_W - 1) * W::DILATION_W + 1;
  const int PADDED_H = (W::OUT_HEIGHT - 1) * W::STRIDE_H + SPAN_H;
  const int PADDED_W = (W::OUT_WIDTH - 1) * W::STRIDE_W + SPAN_W;
  const int END_H = PADDED_H > W::PAD_TOP + W::HEIGHT ? PADDED_H : W::PAD_TOP + W::HEIGHT;
  const int END_W = PADDED_W > W::PAD_LEFT + W::WIDTH ? PADDED_W : W::PAD_LEFT + W::WIDTH;
  typedef Vec<typename W::Out, W::LANES> Pixel;
  Pixel lines[SPAN_H][END_W * W::GROUPS] HARDY_UNSET;
#pragma HLS array_partition variable=lines dim=1 complete
#pragma HLS aggregate variable=lines compact=bit
#pragma HLS dependence variable=lines type=inter false
  Pixel taps[SPAN_H][SPAN_W][W::GROUPS] HARDY_UNSET;
#pragma HLS array_partition variable=taps dim=1 complete
#pragma HLS array_partition variable=taps dim=2 complete
#pragma HLS aggregate variable=taps compact=bit
  for (int frame = 0; frame < frames; ++frame) {
    for (int y = 0; y < END_H; ++y) {
      for (int x = 0; x < END_W; ++x) {
        for (int group = 0; group < W::GROUPS; ++group) {
#pragma HLS pipeline II=1 style=flp
          Pixel next;
          if (y >= W::PAD_TOP && y < W::PAD_TOP + W::HEIGHT && x >= W::PAD_LEFT && x < W::PAD_LEFT + W::WIDTH) {
            const Vec<typename W::In, W::LANES> pixel = in.read();
            for (int lane = 0; lane < W::LANES; ++lane) {
#pragma HLS unroll
              next.lane[lane] = W::inside(pixel.lane[lane]);
            }
          } else {
            for (int lane = 0; lane < W::LANES; ++lane) {
#pragma HLS unroll
              next.lane[lane] = W::outside();
            }
          }
          for (int i = 0; i < SPAN_H; ++i) {
#pragma HLS unroll
            for (int j = 0; j < SPAN_W - 1; ++j) {
#pragma HLS unroll
              taps[i][j][group] = taps[i][j + 1][group];
            }
            const Pixel entering = i == SPAN_H - 1 ? next : lines[i + 1][x * W::GROUPS + group];
            taps[i][SPAN_W - 1][group] = entering;
            lines[i][x * W::GROUPS + group] = entering;
          }
          const int top = y - (SPAN_H - 1);
          const int left = x - (SPAN_W - 1);
          if (top >= 0 && top < W::OUT_HEIGHT * W::STRIDE_H && top % W::STRIDE_H == 0 && left >= 0 &&
              left < W::OUT_WIDTH * W::STRIDE_W && left % W::STRIDE_W == 0) {
            Vec<typename W::Out, W::LANES * W::KERNEL_H * W::KERNEL_W> token;
            for (int i = 0; i < W::KERNEL_H; ++i) {
#pragma HLS unroll
              for (int j = 0; j < W::KERNEL_W; ++j) {
#pragma HLS unroll
                for (int lane = 0; lane < W::LANES; ++lane) {
#pragma HLS unroll
                  token.lane[(i * W::KERNEL_W + j) * W::LANES + lane] =
                      taps[i * W::DILATION_H][j * W::DILATION_W][group].lane[lane];
                }
              }
            }
            out.write(token);
          }
        }
      }
    }
  }
}
