// Streams between modules. For synthesis they are the tool's; for C simulation ours, which are as deep
// as the hardware's, so that a depth that is too small shows there.
#pragma once

#ifdef __SYNTHESIS__
#include <hls_stream.h>
// A process of the dataflow region, and the end of the region.
#define HARDY_PROCESS(...) __VA_ARGS__
#define HARDY_WAIT()
// After a memory of which every word is written before it is read, which g++ cannot see: hardware does not
// clear it.
#define HARDY_UNSET
#else
#include "simulation.h"
#define HARDY_PROCESS(...) hardy::network().start(#__VA_ARGS__, [&] { __VA_ARGS__; })
#define HARDY_WAIT() hardy::network().run()
#define HARDY_UNSET = {}
#endif
