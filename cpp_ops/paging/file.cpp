#include "paging/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace fxpass::paging {
namespace {

[[noreturn]] void fail(const std::string& directory, const std::string& what) {
  throw Error("fxpass: page_dir \"" + directory + "\": " + what);
}

[[noreturn]] void fail_to_write(const std::string& directory, std::int64_t offset, int code) {
  const std::string why = std::strerror(code);
  if (code == ENOSPC || code == EDQUOT || code == EFBIG) {
    fail(directory, "no room for what backward needs, at byte " + std::to_string(offset) +
                        " of the file (" + why +
                        "): free some, give another page_dir, or train with a larger memory "
                        "budget");
  }
  fail(directory, "cannot write (" + why + "): give another page_dir");
}

// Where the file system turns out not to do without the page cache (or only in larger blocks).
bool use_page_cache(int descriptor) {
  const int flags = ::fcntl(descriptor, F_GETFL);
  return (flags & O_DIRECT) != 0 && ::fcntl(descriptor, F_SETFL, flags & ~O_DIRECT) == 0;
}

}  // namespace

File::File(std::string directory) : directory_(std::move(directory)) {
  struct stat status {};
  const bool exists = ::stat(directory_.c_str(), &status) == 0;
  if (!exists || !S_ISDIR(status.st_mode)) {
    const std::string got = exists ? "something else is there" : std::strerror(errno);
    fail(directory_, "expected a directory (" + got + "): make it, or give another page_dir");
  }
  std::string path = directory_ + "/.fxpass-pages-XXXXXX";
  descriptor_ = ::mkostemp(path.data(), O_CLOEXEC);
  if (descriptor_ < 0) {
    fail(directory_, std::string("cannot make a file there (") + std::strerror(errno) +
                         "): give a directory that this process may write to");
  }
  ::unlink(path.c_str());
  ::fcntl(descriptor_, F_SETFL, ::fcntl(descriptor_, F_GETFL) | O_DIRECT);
}

void File::write(std::int64_t offset, const void* from, std::int64_t bytes) const {
  const auto* place = static_cast<const char*>(from);
  while (bytes > 0) {
    const ssize_t written = ::pwrite(descriptor_, place, bytes, offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EINVAL && use_page_cache(descriptor_)) continue;
    if (written < 0) fail_to_write(directory_, offset, errno);
    place += written;
    offset += written;
    bytes -= written;
  }
}

void File::read(std::int64_t offset, void* to, std::int64_t bytes) const {
  auto* place = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t got = ::pread(descriptor_, place, bytes, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EINVAL && use_page_cache(descriptor_)) continue;
    if (got < 0) {
      fail(directory_, "cannot read back what backward needs (" +
                           std::string(std::strerror(errno)) +
                           "): the disk may be failing, give another page_dir");
    }
    if (got == 0) {
      fail(directory_, "the file ends at byte " + std::to_string(offset) + ", " +
                           std::to_string(bytes) +
                           " bytes before what backward needs: something has cut it, or the disk "
                           "is failing; give another page_dir");
    }
    place += got;
    offset += got;
    bytes -= got;
  }
}

void File::settle() const {
  if (::fdatasync(descriptor_) != 0) fail_to_write(directory_, 0, errno);
  ::posix_fadvise(descriptor_, 0, 0, POSIX_FADV_DONTNEED);
}

void File::close() {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
}

}  // namespace fxpass::paging
