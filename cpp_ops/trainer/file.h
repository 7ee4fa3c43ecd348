// Files read at any place, and files that appear whole or not at all. Errors are trainer::Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace fxpass::trainer {

class File {
 public:
  explicit File(std::string path);  // for reading
  File(const File&) = delete;
  ~File();

  const std::string& path() const { return path_; }
  std::int64_t size() const { return size_; }
  // Exactly so many bytes, or an error.
  void read(std::int64_t offset, void* to, std::int64_t bytes) const;

 private:
  std::string path_;
  int descriptor_;
  std::int64_t size_;
};

// Bytes go to a temporary file beside `path`, which takes its place in commit(): before, and where
// that fails, what was at `path` stays as it was, also if the process is killed or the power fails.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  AtomicFile(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(const void* from, std::size_t bytes);
  void commit();

 private:
  std::string path_, temporary_;
  int descriptor_;
};

bool exists(const std::string& path);

}  // namespace fxpass::trainer
