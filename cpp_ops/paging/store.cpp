#include "paging/store.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>

#include "io/crc32.h"

namespace fxpass::paging {
namespace {

using Is = Chunk::Is;

// A signal is to interrupt the program's own threads; of a file that may grow no further (SIGXFSZ)
// the error of the write itself is enough.
class NoSignals {
 public:
  NoSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  NoSignals(const NoSignals&) = delete;
  ~NoSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

std::string hex(std::uint32_t sum) {
  char digits[9];
  std::snprintf(digits, sizeof digits, "%08x", sum);
  return digits;
}

}  // namespace

Page::Page(std::shared_ptr<Store> store, std::uint64_t number, std::int64_t buffer_bytes)
    : store_(std::move(store)), number_(number), buffer_bytes_(buffer_bytes) {}

Page::~Page() { store_->drop(*this); }

void Page::read(void* to, bool ahead) { store_->read(*this, to, ahead); }

std::int64_t Page::waiting_bytes() const { return store_->waiting_bytes(*this); }

Store::Store(const std::string& directory) : file_(directory) {
  const NoSignals in_the_thread;
  thread_ = std::make_unique<std::thread>([this] { run(); });
}

void Store::stop() {
  {
    const Lock lock(mutex_);
    stopped_ = true;
  }
  work_.notify_all();
  changed_.notify_all();
  thread_->join();
}

void Store::abandon() {
  abandoned_ = true;
  file_.close();
}

void Store::check_running() const {
  if (stopped_) throw Error("fxpass: a page was asked for while the process ends");
}

std::unique_ptr<Page> Store::put(const void* from, std::int64_t bytes, std::int64_t buffer_bytes) {
  Lock lock(mutex_);
  auto page = std::make_unique<Page>(shared_from_this(), ++counters_.pages, buffer_bytes);
  // Until it is whole, nobody reads ahead into it: its number is not in pages_.
  const auto* place = static_cast<const char*>(from);
  try {
    while (bytes > 0) {
      auto chunk = std::make_shared<Chunk>(page->number_, std::min(bytes, kChunk));
      wait_for_room(lock, chunk->bytes, buffer_bytes);
      check_written();
      take_buffer(*chunk);
      page->chunks_.push_back(chunk);
      lock.unlock();
      std::memcpy(chunk->buffer->data(), place, chunk->bytes);
      // What was in this memory before is nobody's business on a disk.
      std::memset(chunk->buffer->data() + chunk->bytes, 0,
                  whole_blocks(chunk->bytes) - chunk->bytes);
      lock.lock();
      to_write_.push_back(chunk);
      work_.notify_one();
      place += chunk->bytes;
      bytes -= chunk->bytes;
    }
  } catch (...) {
    lock.unlock();  // the page's end takes it
    throw;
  }
  pages_.emplace(page->number_, page.get());
  return page;
}

void Store::check_written() {
  if (!lost_.has_value()) return;
  const auto error = std::move(lost_->second);
  lost_.reset();
  throw Error(error);
}

// Frees what was read ahead first, and then waits for the disk: there is always something that it
// is about to write, or that a reader is about to have copied.
void Store::wait_for_room(Lock& lock, std::int64_t bytes, std::int64_t limit) {
  while (counters_.buffer_bytes_now + Buffer::cost(bytes) > limit) {
    check_running();
    if (!evict()) changed_.wait(lock);
  }
}

bool Store::evict() {
  // The last one asked for is needed last.
  const auto free = [](const ChunkPtr& chunk) {
    return chunk->readers == 0 && chunk->is != Is::Reading;
  };
  const auto found = std::find_if(asked_.rbegin(), asked_.rend(), free);
  if (found == asked_.rend()) return false;
  forget(*found);
  return true;
}

// Makes of a chunk that was asked for, or is ready, one that is in the file alone.
void Store::forget(ChunkPtr chunk) {
  if (chunk->is == Is::Asked) std::erase(to_read_, chunk);
  std::erase(asked_, chunk);
  chunk->is = Is::Stored;
  give_buffer(*chunk);
}

void Store::take_buffer(Chunk& chunk) {
  chunk.buffer.emplace(chunk.bytes);
  counters_.buffer_bytes_now += Buffer::cost(chunk.bytes);
}

void Store::give_buffer(Chunk& chunk) {
  chunk.buffer.reset();
  counters_.buffer_bytes_now -= Buffer::cost(chunk.bytes);
  changed_.notify_all();
}

// After a reader, or the write: a buffer that nobody needs goes.
void Store::release(const ChunkPtr& chunk) {
  if (chunk->readers > 0 || !chunk->buffer.has_value()) return;
  if (chunk->is == Is::Ready) forget(chunk);
  if (chunk->is == Is::Lost) give_buffer(*chunk);
}

void Store::ask(const ChunkPtr& chunk) {
  take_buffer(*chunk);
  chunk->is = Is::Asked;
  asked_.push_back(chunk);
  to_read_.push_back(chunk);
  work_.notify_one();
}

void Store::read_ahead(const Page& page, std::size_t next) {
  for (auto it = pages_.find(page.number_); it != pages_.end(); next = 0) {
    const Page& of = *it->second;
    for (auto i = next; i < of.chunks_.size(); ++i) {
      const auto& chunk = of.chunks_[i];
      if (chunk->is != Is::Stored) continue;
      if (counters_.buffer_bytes_now + Buffer::cost(chunk->bytes) > page.buffer_bytes_) return;
      ask(chunk);
    }
    if (it == pages_.begin()) return;
    --it;
  }
}

void Store::read(const Page& page, void* to, bool ahead) {
  if (abandoned_) {
    throw Error("fxpass: page_dir \"" + file_.directory() +
                "\": the forward ran before this process was forked off, and its pages are the "
                "parent's: run it again here");
  }
  auto* place = static_cast<char*>(to);
  Lock lock(mutex_);
  ++counters_.pages_read;
  if (std::find(asked_.begin(), asked_.end(), page.chunks_.front()) != asked_.end()) {
    ++counters_.pages_read_ahead;
  }
  for (std::size_t i = 0; i < page.chunks_.size(); ++i) {
    const auto& chunk = page.chunks_[i];
    if (chunk->is == Is::Stored) wait_for_room(lock, chunk->bytes, page.buffer_bytes_);
    if (chunk->is == Is::Stored) ask(chunk);  // another reader has not in the meantime
    if (ahead) read_ahead(page, i + 1);
    ++chunk->readers;  // from here on nothing throws
    changed_.wait(lock, [&] { return chunk->in_memory() || chunk->is == Is::Lost || stopped_; });
    const bool here = chunk->in_memory();
    if (here) {
      lock.unlock();
      std::memcpy(place, chunk->buffer->data(), chunk->bytes);
      lock.lock();
      place += chunk->bytes;
    }
    --chunk->readers;
    release(chunk);
    if (here) continue;
    if (chunk->is != Is::Lost) check_running();
    if (lost_.has_value() && lost_->first == page.number_) lost_.reset();
    throw Error(chunk->error);
  }
}

void Store::drop_read_ahead() {
  if (abandoned_) return;
  Lock lock(mutex_);
  const auto under_way = [](const ChunkPtr& chunk) {
    return chunk->is == Is::Reading && chunk->readers == 0;
  };
  while (true) {
    while (evict()) {
    }
    if (std::none_of(asked_.begin(), asked_.end(), under_way)) return;
    changed_.wait(lock);
  }
}

void Store::drop(Page& page) {
  if (abandoned_) {
    // As the fork found it, possibly half changed: better left alone.
    new auto(std::move(page.chunks_));
    return;
  }
  const Lock lock(mutex_);
  pages_.erase(page.number_);
  if (lost_.has_value() && lost_->first == page.number_) lost_.reset();
  for (const auto& chunk : page.chunks_) {
    if (chunk->is == Is::Writing || chunk->is == Is::Reading) {
      chunk->dropped = true;  // the thread does the rest
      continue;
    }
    if (chunk->is == Is::Waiting) std::erase(to_write_, chunk);
    if (chunk->is == Is::Asked) std::erase(to_read_, chunk);
    discard(chunk);
  }
}

void Store::discard(const ChunkPtr& chunk) {
  std::erase(asked_, chunk);
  if (chunk->buffer.has_value()) give_buffer(*chunk);
  give_slot(*chunk);
}

std::int64_t Store::waiting_bytes(const Page& page) {
  if (abandoned_) return 0;
  const Lock lock(mutex_);
  std::int64_t sum = 0;
  for (const auto& chunk : page.chunks_) {
    if (chunk->is == Is::Waiting || chunk->is == Is::Writing) sum += chunk->bytes;
  }
  return sum;
}

Counters Store::counters() {
  const Lock lock(mutex_);
  auto now = counters_;
  now.pages_now = static_cast<std::int64_t>(pages_.size());
  now.file_bytes = slots_ * kChunk;
  return now;
}

// What the thread does. Reads go first: somebody waits for them, or will soon.
void Store::run() {
  pthread_setname_np(pthread_self(), "fxpass-paging");
  Lock lock(mutex_);
  while (true) {
    work_.wait(lock, [this] { return stopped_ || !to_read_.empty() || !to_write_.empty(); });
    if (stopped_) return;
    auto& queue = to_read_.empty() ? to_write_ : to_read_;
    const auto chunk = std::move(queue.front());
    queue.pop_front();
    chunk->is = chunk->is == Is::Waiting ? Is::Writing : Is::Reading;
    if (chunk->is == Is::Writing) chunk->slot = take_slot();
    lock.unlock();
    try {
      chunk->is == Is::Writing ? write(*chunk) : check(*chunk);
    } catch (const std::exception& error) {
      chunk->error = error.what();
    }
    lock.lock();
    finish(chunk);
  }
}

std::int64_t Store::take_slot() {
  if (free_slots_.empty()) return slots_++;
  return free_slots_.extract(free_slots_.begin()).value();
}

void Store::give_slot(Chunk& chunk) {
  if (chunk.slot >= 0) free_slots_.insert(std::exchange(chunk.slot, -1));
}

void Store::write(Chunk& chunk) const {
  chunk.sum = io::crc32(chunk.buffer->data(), chunk.bytes, 0);
  file_.write(chunk.slot * kChunk, chunk.buffer->data(), whole_blocks(chunk.bytes));
}

void Store::check(const Chunk& chunk) const {
  const auto offset = chunk.slot * kChunk;
  file_.read(offset, chunk.buffer->data(), whole_blocks(chunk.bytes));
  const auto sum = io::crc32(chunk.buffer->data(), chunk.bytes, 0);
  if (sum == chunk.sum) return;
  throw Error("fxpass: page_dir \"" + file_.directory() +
              "\": what backward needs is damaged: of " + std::to_string(chunk.bytes) +
              " bytes at byte " + std::to_string(offset) + " of the file the checksum (crc32) is " +
              hex(sum) + ", expected " + hex(chunk.sum) +
              ": the disk may be failing, give another page_dir and run this step again");
}

void Store::finish(const ChunkPtr& chunk) {
  const bool wrote = chunk->is == Is::Writing, failed = !chunk->error.empty();
  chunk->is = failed ? Is::Lost : Is::Ready;
  if (!failed) (wrote ? counters_.written_bytes : counters_.read_bytes) += chunk->bytes;
  if (failed && wrote) give_slot(*chunk);  // where something smaller may have room
  if (failed && wrote && !chunk->dropped) lost_.emplace(chunk->page, chunk->error);
  if (failed) std::erase(asked_, chunk);
  if (chunk->dropped) {
    discard(chunk);
  } else if (wrote || failed) {
    release(chunk);
  }
  changed_.notify_all();
}

}  // namespace fxpass::paging
