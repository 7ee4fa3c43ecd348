// The stores of the process, one a directory.
#pragma once

#include <memory>
#include <string>

#include "paging/store.h"

namespace fxpass::paging {

// Makes it when it is first asked for, and with it a file and a thread: it stays until the process
// ends. A child made by fork() begins with none. Throws an Error where no file can be made.
std::shared_ptr<Store> store_in(const std::string& directory);

// From now on all pages go to this directory, whichever they name: a model that was exported may
// find another disk where it is trained. Empty: no longer.
void use_only(const std::string& directory);

}  // namespace fxpass::paging
