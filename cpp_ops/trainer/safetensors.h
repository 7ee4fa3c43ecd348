// The safetensors format (https://github.com/huggingface/safetensors): a header in JSON that names
// every tensor, its type, sizes and place, then their bytes, without gaps.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "trainer/file.h"

namespace fxpass::trainer {

using Metadata = std::map<std::string, std::string>;
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

struct Entry {
  at::ScalarType dtype;
  std::vector<std::int64_t> sizes;
  std::int64_t offset, bytes;  // in the file
};

// A file whose header was read and whose every size and place was checked against the file's own;
// no tensor was read. Errors say what is wrong with it.
class SafeTensors {
 public:
  explicit SafeTensors(std::string path);

  const File& file() const { return file_; }
  const Metadata& metadata() const { return metadata_; }
  const std::map<std::string, Entry>& entries() const { return entries_; }
  const Entry& entry(const std::string& name) const;
  at::Tensor read(const std::string& name) const;
  // Raises unless the file is as write_safetensors() wrote it, to the last bit.
  void check_crc32() const;

 private:
  File file_;
  std::string header_;
  Metadata metadata_;
  std::map<std::string, Entry> entries_;
};

// Writes the tensors (their values, in the order of their indices) atomically, with one more entry
// in the metadata: crc32, that of the whole file (zlib's) with zeros for these eight digits.
void write_safetensors(const std::string& path, const NamedTensors& tensors, Metadata metadata);

// "float32 [2, 3]"
std::string describe(at::ScalarType dtype, at::IntArrayRef sizes);

}  // namespace fxpass::trainer
