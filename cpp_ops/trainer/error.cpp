#include "trainer/error.h"

#include <c10/util/Exception.h>

namespace fxpass::trainer {

std::string one_line(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  std::string text = torch_error == nullptr ? error.what() : torch_error->what_without_backtrace();
  text.erase(0, text.find_first_not_of('\n'));
  if (text.find("TorchScript interpreter") != std::string::npos) {
    text.erase(text.find_last_not_of('\n') + 1);
    return text.substr(text.rfind('\n') + 1);
  }
  return text.substr(0, text.find('\n'));
}

}  // namespace fxpass::trainer
