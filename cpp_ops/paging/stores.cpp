#include "paging/stores.h"

#include <pthread.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <system_error>
#include <utility>

namespace fxpass::paging {
namespace {

struct Stores {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<Store>> of_directory;
  std::string only;  // see use_only()
};

// Never destroyed: a graph in static storage may give up its pages after any destructor of ours.
Stores& stores() {
  static auto* instance = new Stores;
  return *instance;
}

// A thread that is at work must not see the process' static objects destroyed.
void stop_all() {
  const std::lock_guard lock(stores().mutex);
  for (const auto& [directory, store] : stores().of_directory) store->stop();
}

void lock_all() { stores().mutex.lock(); }
void unlock_all() { stores().mutex.unlock(); }

void begin_anew() {
  auto& inherited = *new auto(std::exchange(stores().of_directory, {}));
  for (const auto& [directory, store] : inherited) store->abandon();
  unlock_all();
}

// The same directory has the same name, also when the process goes elsewhere.
std::string full_name(const std::string& directory) {
  std::error_code error;
  const auto path = std::filesystem::canonical(directory, error);
  return error ? directory : path.string();  // the store itself says what is wrong
}

}  // namespace

std::shared_ptr<Store> store_in(const std::string& directory) {
  [[maybe_unused]] static const bool once = [] {
    std::atexit(stop_all);
    pthread_atfork(lock_all, unlock_all, begin_anew);
    return true;
  }();
  const std::lock_guard lock(stores().mutex);
  const auto name = full_name(stores().only.empty() ? directory : stores().only);
  auto& store = stores().of_directory[name];
  try {
    if (store == nullptr) store = std::make_shared<Store>(name);
  } catch (...) {
    stores().of_directory.erase(name);
    throw;
  }
  return store;
}

void use_only(const std::string& directory) {
  const std::lock_guard lock(stores().mutex);
  stores().only = directory;
}

}  // namespace fxpass::paging
