// What C simulation refuses: programs that hardware would run wrongly without a word.
#pragma once

#ifdef __SYNTHESIS__
#define VTA_REQUIRE(condition, ...)
#else
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace vta {

constexpr int REFUSED = 1;  // the exit code

/// Bytes of DRAM; the testbench sets it.
inline uint64_t& dram_bytes() {
  static uint64_t bytes = 0;
  return bytes;
}

/// What to say besides the reason.
inline void (*&context())() {
  static void (*say)() = nullptr;
  return say;
}

/// Ends the simulation at once: a process that stops here has no main program to return to.
[[noreturn]] inline void refuse() {
  std::fputc('\n', stderr);
  if (context()) context()();
  std::fflush(stderr);
  std::_Exit(REFUSED);
}

}  // namespace vta

#define VTA_REQUIRE(condition, ...)      \
  do {                                   \
    if (!(condition)) {                  \
      std::fprintf(stderr, __VA_ARGS__); \
      vta::refuse();                     \
    }                                    \
  } while (false)
#endif
