#include "memory/part.h"

#include <atomic>
#include <mutex>

namespace fxpass::memory {
namespace {

thread_local Part part;

std::atomic<bool> times_wanted{false};
std::mutex times_mutex;
std::vector<Restored> times;

}  // namespace

Part this_part() { return part; }

Part set_part(Part now) { return std::exchange(part, now); }

void begin_restore_times() {
  std::lock_guard lock(times_mutex);
  times.clear();
  times_wanted = true;
}

std::vector<Restored> end_restore_times() {
  std::lock_guard lock(times_mutex);
  times_wanted = false;
  return std::exchange(times, {});
}

RestoreTime::RestoreTime(std::int32_t part) : part_(part), wanted_(times_wanted) {
  if (wanted_) start_ = std::chrono::steady_clock::now();
}

RestoreTime::~RestoreTime() {
  if (!wanted_) return;
  const auto elapsed = std::chrono::steady_clock::now() - start_;
  std::lock_guard lock(times_mutex);
  times.push_back({part_, std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed).count()});
}

}  // namespace fxpass::memory
