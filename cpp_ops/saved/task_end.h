// What is kept for the length of one backward.
#pragma once

#include <functional>

namespace fxpass {

// Called from within a graph task: `function` is called when that ends, whether well or by raising.
void at_task_end(std::function<void()> function);

}  // namespace fxpass
