// What ends the program: one line on stderr, and an exit code.
#pragma once

#include <stdexcept>
#include <string>

namespace fxpass::trainer {

// Something the user can do something about. what() is one line that says what was expected, what
// came, and where.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum ExitCode : int {
  kDone = 0,
  kFailed = 1,   // one line on stderr says why
  kUsage = 2,    // the command line is wrong
  kStopped = 3,  // by SIGTERM or SIGINT, after a whole step, checkpoint written if there is one
};

// The one line of any error that says most: torch's have a trace behind it, TorchScript's before.
std::string one_line(const std::exception& error);

}  // namespace fxpass::trainer
