#include "saved/task_end.h"

#include <torch/csrc/autograd/engine.h>

#include <memory>
#include <utility>

namespace fxpass {
namespace {

// The engine destroys its callbacks either way, but runs them only when all went well.
class WhenDestroyed {
 public:
  explicit WhenDestroyed(std::function<void()> function) : function_(std::move(function)) {}
  WhenDestroyed(const WhenDestroyed&) = delete;
  ~WhenDestroyed() { function_(); }

 private:
  std::function<void()> function_;
};

}  // namespace

void at_task_end(std::function<void()> function) {
  auto end = std::make_shared<WhenDestroyed>(std::move(function));
  torch::autograd::Engine::get_default_engine().queue_callback([end] { (void)end; });
}

}  // namespace fxpass
