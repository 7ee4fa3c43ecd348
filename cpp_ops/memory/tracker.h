// Exact live and peak bytes of torch's CPU allocator: all threads, no profiler.
//
// install() puts a counting allocator in front of the one torch uses. It allocates through that
// one, frees through its raw_deleter(), adds no header, and keeps a DataPtr's context equal to its
// data pointer, so a buffer is the same buffer with and without counting. It stays for the life of
// the process: a buffer's deleter must outlive the buffer.
//
// What is counted: the bytes asked for (not what malloc rounds them to) of every buffer that was
// allocated after install(). Older buffers carry their own deleter: neither their birth nor their
// death is seen.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "memory/part.h"

namespace fxpass::memory {

using TrackerId = std::uint64_t;

// One allocation or release.
struct Event {
  std::int64_t nanoseconds;  // since the tracker began
  std::int64_t live;         // bytes above the tracker's start, right after it
  std::int64_t delta;        // bytes allocated, or minus those released
  std::uint64_t address;     // of the buffer
  Part part;                 // where the thread was that did it
};

// Bytes are relative to what was live when the tracker began (or, for the peak, never below zero:
// the start itself counts). `live` is negative when more was released than allocated since.
struct Reading {
  std::int64_t live;
  std::int64_t peak;
  std::vector<Event> timeline;  // empty unless recorded
};

// Starts counting; later calls do nothing. Throws std::runtime_error if the allocator it finds
// cannot be wrapped, or if another one has taken the counter's place since.
void install();

// Live bytes of all buffers allocated since install().
std::int64_t live_bytes();

// Any number of trackers may be open at once, in any nesting and from any thread. Every function
// that takes an id throws std::out_of_range once that tracker has ended.
TrackerId begin(bool record_timeline);  // installs the counter first if need be
std::int64_t live(TrackerId id);
std::int64_t peak(TrackerId id);
void reset_peak(TrackerId id);  // the peak becomes what is live now, or zero if that is negative
std::vector<Event> timeline(TrackerId id);
std::size_t events(TrackerId id);  // how many the timeline has
Reading end(TrackerId id);

}  // namespace fxpass::memory
