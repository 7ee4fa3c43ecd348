// A file without a name: nobody else can open it, and it vanishes with the process, however that
// ends.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace fxpass::paging {

// What goes wrong with the disk, in words for the user.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Offsets, sizes and addresses of all that is read and written are multiples of this.
inline constexpr std::int64_t kBlock = 4096;

constexpr std::int64_t whole_blocks(std::int64_t bytes) {
  return (bytes + kBlock - 1) / kBlock * kBlock;
}

class File {
 public:
  // In the file system of `directory`. Past the page cache where that can be: what is cached takes
  // memory too, and the disk's real speed would show only once it has run full.
  explicit File(std::string directory);
  File(const File&) = delete;
  ~File() { close(); }

  const std::string& directory() const { return directory_; }
  // All of it, or an Error.
  void write(std::int64_t offset, const void* from, std::int64_t bytes) const;
  void read(std::int64_t offset, void* to, std::int64_t bytes) const;
  // Returns once all that was written is on the disk, and in the page cache no longer.
  void settle() const;
  void close();

 private:
  std::string directory_;
  int descriptor_;
};

}  // namespace fxpass::paging
