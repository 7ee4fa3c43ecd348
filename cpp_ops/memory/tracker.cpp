#include "memory/tracker.h"

#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>
#include <c10/util/flat_hash_map.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

namespace fxpass::memory {
namespace {

using Clock = std::chrono::steady_clock;

// Sizes of live buffers. Sharded, because growing a table takes long and must not stop the other
// threads; every shard has a cache line of its own.
class SizeTable {
 public:
  void insert(const void* data, std::int64_t bytes) {
    Shard& shard = shard_of(data);
    std::lock_guard lock(shard.mutex);
    shard.sizes[data] = bytes;
  }

  // The size given to insert(), forgotten; 0 for a pointer that is not in the table.
  std::int64_t take(const void* data) {
    Shard& shard = shard_of(data);
    std::lock_guard lock(shard.mutex);
    const auto found = shard.sizes.find(data);
    if (found == shard.sizes.end()) return 0;
    const std::int64_t bytes = found->second;
    shard.sizes.erase(found);
    return bytes;
  }

  void lock() {
    for (Shard& shard : shards_) shard.mutex.lock();
  }
  void unlock() {
    for (Shard& shard : shards_) shard.mutex.unlock();
  }

 private:
  struct alignas(64) Shard {
    std::mutex mutex;
    ska::flat_hash_map<const void*, std::int64_t> sizes;
  };

  Shard& shard_of(const void* data) {
    // Fibonacci hashing: large buffers share their low bits, so the high ones of a product choose.
    const auto address = reinterpret_cast<std::uintptr_t>(data);
    return shards_[(address * 0x9E3779B97F4A7C15ull) >> (64 - kLogShards)];
  }

  static constexpr int kLogShards = 5;
  std::array<Shard, std::size_t{1} << kLogShards> shards_;
};

struct Tracker {
  TrackerId id;
  std::int64_t base;
  std::int64_t peak;  // absolute, as `base`
  bool record;
  Clock::time_point start;
  std::vector<Event> timeline;
};

// The running total and the open trackers, under one lock: every total that ever existed is seen by
// every tracker open at that moment, in one order. The lock is held for a few nanoseconds.
class Ledger {
 public:
  void add(std::int64_t bytes, const void* data) {
    std::lock_guard lock(mutex_);
    live_ += bytes;
    for (Tracker& tracker : trackers_) {
      tracker.peak = std::max(tracker.peak, live_);
      if (tracker.record) {
        const auto elapsed = Clock::now() - tracker.start;
        tracker.timeline.push_back(
            {std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed).count(),
             live_ - tracker.base, bytes, reinterpret_cast<std::uintptr_t>(data), this_part()});
      }
    }
  }

  std::int64_t live() {
    std::lock_guard lock(mutex_);
    return live_;
  }

  TrackerId begin(bool record) {
    std::lock_guard lock(mutex_);
    trackers_.push_back({next_id_, live_, live_, record, Clock::now(), {}});
    return next_id_++;
  }

  // Calls read(tracker, live) under the lock.
  template <typename Read>
  auto with(TrackerId id, Read read) {
    std::lock_guard lock(mutex_);
    return read(*find(id), live_);
  }

  Reading end(TrackerId id) {
    std::lock_guard lock(mutex_);
    const auto tracker = find(id);
    Reading reading{live_ - tracker->base, tracker->peak - tracker->base,
                    std::move(tracker->timeline)};
    trackers_.erase(tracker);
    return reading;
  }

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  std::vector<Tracker>::iterator find(TrackerId id) {
    const auto found = std::find_if(trackers_.begin(), trackers_.end(),
                                    [id](const Tracker& tracker) { return tracker.id == id; });
    if (found == trackers_.end()) {
      throw std::out_of_range("no open memory tracker has the id " + std::to_string(id));
    }
    return found;
  }

  std::mutex mutex_;
  std::int64_t live_ = 0;
  TrackerId next_id_ = 1;
  std::vector<Tracker> trackers_;
};

// Never destroyed: tensors in static storage are freed after any destructor of ours would have run.
SizeTable& sizes() {
  static auto* table = new SizeTable;
  return *table;
}

Ledger& ledger() {
  static auto* instance = new Ledger;
  return *instance;
}

// Set once, before the counter can hand out its first buffer.
c10::Allocator* inner = nullptr;
c10::DeleterFnPtr inner_delete = nullptr;

void count_and_delete(void* data) {
  // Counted before it is freed: afterwards another thread may be given the same address.
  const std::int64_t bytes = sizes().take(data);
  if (bytes != 0) ledger().add(-bytes, data);
  inner_delete(data);
}

// How the counter is asked whether it is still in use, without a trace in the counts.
enum class Probe : std::uint8_t { kNone, kAsked, kSeen };
thread_local Probe probe = Probe::kNone;

class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    c10::DataPtr data = inner->allocate(bytes);
    TORCH_INTERNAL_ASSERT(data.get() == data.get_context() &&
                              data.compare_exchange_deleter(inner_delete, &count_and_delete),
                          "torch's CPU allocator returned a buffer that its own raw_deleter() "
                          "cannot free, so fxpass cannot count it");
    if (probe == Probe::kAsked) {
      probe = Probe::kSeen;
      return data;
    }
    // An empty buffer weighs nothing, and some allocators give all of them one address.
    if (bytes != 0 && data.get() != nullptr) {
      sizes().insert(data.get(), static_cast<std::int64_t>(bytes));
      ledger().add(static_cast<std::int64_t>(bytes), data.get());
    }
    return data;
  }

  c10::DeleterFnPtr raw_deleter() const override { return &count_and_delete; }

  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    inner->copy_data(to, from, bytes);
  }
};

CountingAllocator& counter() {
  static auto* allocator = new CountingAllocator;
  return *allocator;
}

// Whether a buffer from torch's present allocator passes through the counter, which another
// allocator may have wrapped in its turn, or replaced.
bool counts() {
  c10::Allocator* present = c10::GetAllocator(c10::DeviceType::CPU);
  if (present == &counter()) return true;
  probe = Probe::kAsked;
  const c10::DataPtr data = present->allocate(1);
  return std::exchange(probe, Probe::kNone) == Probe::kSeen;
}

void install_once() {
  c10::Allocator* found = c10::GetAllocator(c10::DeviceType::CPU);
  c10::DeleterFnPtr found_delete = found->raw_deleter();
  if (found_delete == nullptr) {
    throw std::runtime_error(
        "fxpass.memory cannot count: torch's CPU allocator has no raw_deleter()");
  }
  inner = found;
  inner_delete = found_delete;
  // A child made by fork() would wait for ever for a lock that another thread held at that moment.
  pthread_atfork(
      [] {
        sizes().lock();
        ledger().lock();
      },
      [] {
        ledger().unlock();
        sizes().unlock();
      },
      [] {
        ledger().unlock();
        sizes().unlock();
      });
  // The found allocator's priority cannot be asked for; the highest outranks all.
  c10::SetAllocator(c10::DeviceType::CPU, &counter(), std::numeric_limits<std::uint8_t>::max());
}

}  // namespace

void install() {
  static std::once_flag once;
  std::call_once(once, install_once);
  if (!counts()) {
    throw std::runtime_error(
        "fxpass.memory cannot count: another library has replaced torch's CPU allocator since "
        "fxpass began to count");
  }
}

std::int64_t live_bytes() { return ledger().live(); }

TrackerId begin(bool record_timeline) {
  install();
  return ledger().begin(record_timeline);
}

std::int64_t live(TrackerId id) {
  return ledger().with(id, [](Tracker& tracker, std::int64_t now) { return now - tracker.base; });
}

std::int64_t peak(TrackerId id) {
  return ledger().with(id,
                       [](Tracker& tracker, std::int64_t) { return tracker.peak - tracker.base; });
}

void reset_peak(TrackerId id) {
  ledger().with(
      id, [](Tracker& tracker, std::int64_t now) { tracker.peak = std::max(tracker.base, now); });
}

std::vector<Event> timeline(TrackerId id) {
  return ledger().with(id, [](Tracker& tracker, std::int64_t) { return tracker.timeline; });
}

std::size_t events(TrackerId id) {
  return ledger().with(id, [](Tracker& tracker, std::int64_t) { return tracker.timeline.size(); });
}

Reading end(TrackerId id) { return ledger().end(id); }

}  // namespace fxpass::memory
