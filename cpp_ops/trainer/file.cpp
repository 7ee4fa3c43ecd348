#include "trainer/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "trainer/error.h"

namespace fxpass::trainer {
namespace {

[[noreturn]] void fail(const std::string& path, const char* what) {
  throw Error(path + ": cannot " + what + ": " + std::strerror(errno));
}

// A rename is on the disk once the directory is.
void sync_directory_of(const std::string& path) {
  auto folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) folder = ".";
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail(folder, "open the folder");
  const int result = ::fsync(descriptor);
  ::close(descriptor);
  if (result != 0) fail(folder, "write the folder to the disk");
}

}  // namespace

File::File(std::string path)
    : path_(std::move(path)), descriptor_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (descriptor_ < 0) fail(path_, "open");
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    throw Error(path_ + ": expected a file, got something else");
  }
  size_ = status.st_size;
}

File::~File() { ::close(descriptor_); }

void File::read(std::int64_t offset, void* to, std::int64_t bytes) const {
  auto* place = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t got = ::pread(descriptor_, place, bytes, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path_, "read");
    if (got == 0) throw Error(path_ + ": the file has become shorter while it was read");
    place += got;
    offset += got;
    bytes -= got;
  }
}

AtomicFile::AtomicFile(std::string path)
    : path_(std::move(path)),
      temporary_(path_ + ".tmp"),
      descriptor_(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) fail(temporary_, "create");
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    ::close(descriptor_);
    throw Error(temporary_ + ": another process is writing it");
  }
  if (::ftruncate(descriptor_, 0) != 0) {  // what a killed process has left
    ::close(descriptor_);
    fail(temporary_, "empty");
  }
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::unlink(temporary_.c_str());
  ::close(descriptor_);
}

void AtomicFile::write(const void* from, std::size_t bytes) {
  const auto* place = static_cast<const char*>(from);
  while (bytes > 0) {
    const ssize_t written = ::write(descriptor_, place, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(temporary_, "write");
    place += written;
    bytes -= written;
  }
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0) fail(temporary_, "write to the disk");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(path_, "replace");
  ::close(std::exchange(descriptor_, -1));
  sync_directory_of(path_);
}

bool exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

}  // namespace fxpass::trainer
