// Which part of a model a thread is computing: a number that the profiler gives it, so that the
// buffers allocated, and the time spent in restoring, can be told by part.
#pragma once

#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

namespace fxpass::memory {

// What a buffer is for.
enum class Use : std::uint8_t {
  Tensor,
  Payload,  // bits and the like that an op keeps
  Value,    // what the handle of a value keeps to restore it
};

struct Part {
  std::int32_t number = 0;  // 0: none
  Use use = Use::Tensor;
};

Part this_part();
// Sets it, for this thread, and returns the one before.
Part set_part(Part part);

// In its life, what this thread allocates is of another part, or of another use.
class InPart {
 public:
  explicit InPart(Part part) : before_(set_part(part)) {}
  InPart(const InPart&) = delete;
  ~InPart() { set_part(before_); }

 private:
  Part before_;
};

// The present part, but what is allocated is a payload, if not more is known of it already.
inline Part as_payload() {
  const auto part = this_part();
  return part.use == Use::Tensor ? Part{part.number, Use::Payload} : part;
}

// How long it took to restore a value for backward, and which part had computed it.
struct Restored {
  std::int32_t part;
  std::int64_t nanoseconds;
};

// Between the two, what every thread restores is noted.
void begin_restore_times();
std::vector<Restored> end_restore_times();

// Notes its own life, if anybody wants to know.
class RestoreTime {
 public:
  explicit RestoreTime(std::int32_t part);
  RestoreTime(const RestoreTime&) = delete;
  ~RestoreTime();

 private:
  std::int32_t part_;
  bool wanted_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace fxpass::memory
