#include "trainer/signals.h"

#include <csignal>

namespace fxpass::trainer {
namespace {

volatile std::sig_atomic_t stop = 0;

}  // namespace

void watch_signals() {
  struct sigaction action {};
  action.sa_handler = [](int) { stop = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error of write()
}

bool asked_to_stop() { return stop != 0; }

}  // namespace fxpass::trainer
