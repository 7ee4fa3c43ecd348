// The pages of one directory: values copied to a file by a thread of its own, and read back.
//
// Bytes on their way wait in buffers, which are bounded: put() returns when the last of the value
// has been copied into one, and waits for the disk where they are full. read() asks for what comes
// next, and for what was put before this page: backward asks for values in the reverse order.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "paging/chunk.h"
#include "paging/file.h"

namespace fxpass::paging {

class Store;

// One value in a store. Gives up its place when destroyed.
class Page {
 public:
  Page(std::shared_ptr<Store> store, std::uint64_t number, std::int64_t buffer_bytes);
  Page(const Page&) = delete;
  ~Page();

  // Copies the bytes to `to`. `ahead`: also starts to read what is likely to be asked for next,
  // until drop_read_ahead(). Throws an Error if they are not what was put.
  void read(void* to, bool ahead);
  // Bytes that are not yet on the disk.
  std::int64_t waiting_bytes() const;
  const std::shared_ptr<Store>& store() const { return store_; }

 private:
  friend class Store;
  std::shared_ptr<Store> store_;
  std::uint64_t number_;  // in the order of put()
  std::int64_t buffer_bytes_;
  std::vector<std::shared_ptr<Chunk>> chunks_;
};

// Since the store was made, unless it says now.
struct Counters {
  std::int64_t pages = 0;             // put
  std::int64_t pages_now = 0;         // that are not given up
  std::int64_t pages_read = 0;        // as often as each was
  std::int64_t pages_read_ahead = 0;  // of which the reading had begun before they were asked for
  std::int64_t written_bytes = 0, read_bytes = 0;
  std::int64_t buffer_bytes_now = 0;
  std::int64_t file_bytes = 0;  // the most that the file has had room for
};

class Store : public std::enable_shared_from_this<Store> {
 public:
  explicit Store(const std::string& directory);

  // Copies the bytes; at most `buffer_bytes` of buffers (two chunks at least) are in use while it
  // and reading it back do so. Throws an Error if a page put before could not be written, once.
  std::unique_ptr<Page> put(const void* from, std::int64_t bytes, std::int64_t buffer_bytes);
  void drop_read_ahead();
  Counters counters();

  // Ends the thread, after what it is writing or reading now. What is asked for later throws.
  void stop();
  // In a child made by fork(), which has neither the thread nor the parent's file: from now on
  // nothing here is touched, least of all the mutex, which anybody may have held.
  void abandon();

 private:
  friend class Page;
  using Lock = std::unique_lock<std::mutex>;
  using ChunkPtr = std::shared_ptr<Chunk>;

  void check_running() const;
  void check_written();
  void wait_for_room(Lock& lock, std::int64_t bytes, std::int64_t limit);
  bool evict();
  void forget(ChunkPtr chunk);
  void take_buffer(Chunk& chunk);
  void give_buffer(Chunk& chunk);
  void release(const ChunkPtr& chunk);
  void ask(const ChunkPtr& chunk);
  void read_ahead(const Page& page, std::size_t next);
  void read(const Page& page, void* to, bool ahead);
  void drop(Page& page);
  void discard(const ChunkPtr& chunk);
  std::int64_t waiting_bytes(const Page& page);

  void run();
  std::int64_t take_slot();
  void give_slot(Chunk& chunk);
  void write(Chunk& chunk) const;
  void check(const Chunk& chunk) const;
  void finish(const ChunkPtr& chunk);

  File file_;
  std::mutex mutex_;
  std::condition_variable work_, changed_;
  bool stopped_ = false, abandoned_ = false;
  std::deque<ChunkPtr> to_write_, to_read_;
  std::vector<ChunkPtr> asked_;  // of which a buffer is read, or will be
  std::map<std::uint64_t, Page*> pages_;
  // Of a page that could not be written: its number, and why.
  std::optional<std::pair<std::uint64_t, std::string>> lost_;
  std::set<std::int64_t> free_slots_;  // of kChunk bytes each, in the file
  std::int64_t slots_ = 0;
  Counters counters_;
  std::unique_ptr<std::thread> thread_;
};

}  // namespace fxpass::paging
