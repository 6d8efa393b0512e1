// C simulation of a dataflow region: every process is a coroutine, every stream a queue of its real depth.
//
// Such a network is determinate: what it computes, and whether it stops halfway, does not depend on the
// order in which its processes run (Kahn, 1974). So if it completes here, it completes in hardware,
// whatever the latencies; if it does not, every process that waits is named with the stream it waits for.
#pragma once

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace hardy {

class Network {
 public:
  static const int DEADLOCK = 3;  // the exit code

  void start(const std::string& call, std::function<void()> body) {
    processes.emplace_back(new Process{call.substr(0, call.find('(')), body});
  }

  /// Runs every process to its end, or leaves the program with the names of those that cannot go on.
  void run() {
    std::size_t running = processes.size();
    while (running > 0) {
      const long before = events;
      for (auto& process : processes) {
        if (process->done) continue;
        current = process.get();
        if (!process->stack) prepare(*process);
        swapcontext(&main, &process->context);
        if (process->done) --running;
      }
      if (running > 0 && events == before) report();
    }
    processes.clear();
  }

  /// Called by a process that cannot go on: lets the others run. `kind` is "empty" or "full".
  void wait(const char* kind, const std::string& stream, std::size_t depth) {
    current->waits = "waits for " + stream + ", which is " + kind + " (depth " + std::to_string(depth) + ")";
    swapcontext(&current->context, &main);
  }

  void progress() { ++events; }

 private:
  struct Process {
    std::string name;
    std::function<void()> body;
    std::unique_ptr<char[]> stack;
    ucontext_t context;
    std::string waits;
    bool done;

    Process(const std::string& name, std::function<void()> body) : name(name), body(body), done(false) {}
  };

  static const std::size_t STACK = 8u << 20;  // buffers are local arrays; untouched pages cost nothing

  void prepare(Process& process) {
    process.stack.reset(new char[STACK]);
    getcontext(&process.context);
    process.context.uc_stack.ss_sp = process.stack.get();
    process.context.uc_stack.ss_size = STACK;
    process.context.uc_link = &main;
    makecontext(&process.context, &Network::enter, 0);
  }

  static void enter();

  void report() {
    std::fprintf(stderr, "deadlock: no process can go on\n");
    for (auto& process : processes)
      if (!process->done) std::fprintf(stderr, "  %s %s\n", process->name.c_str(), process->waits.c_str());
    std::exit(DEADLOCK);
  }

  std::vector<std::unique_ptr<Process>> processes;
  Process* current = nullptr;
  ucontext_t main;
  long events = 0;
};

inline Network& network() {
  static Network one;
  return one;
}

inline void Network::enter() {
  Process& process = *network().current;
  process.body();
  process.done = true;
  network().progress();
}

}  // namespace hardy

namespace hls {

template <class T, int DEPTH = 0>
class stream;

/// What processes see of a stream: blocking reads and writes.
template <class T>
class stream<T, 0> {
 public:
  stream(const char* name, std::size_t depth) : name(name), depth(depth) {}

  T read() {
    while (queue.empty()) hardy::network().wait("empty", name, depth);
    const T value = queue.front();
    queue.pop_front();
    hardy::network().progress();
    return value;
  }

  void write(const T& value) {
    while (queue.size() >= depth) hardy::network().wait("full", name, depth);
    queue.push_back(value);
    hardy::network().progress();
  }

 private:
  std::string name;
  std::size_t depth;
  std::deque<T> queue;
};

template <class T, int DEPTH>
class stream : public stream<T, 0> {
 public:
  explicit stream(const char* name) : stream<T, 0>(name, DEPTH) {}
};

}  // namespace hls
