#include "trainer/safetensors.h"

#include <ATen/ATen.h>
#include <c10/util/safe_numerics.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "io/crc32.h"
#include "trainer/error.h"

namespace fxpass::trainer {
namespace {

using nlohmann::json;

constexpr std::int64_t kLengthBytes = 8;
constexpr std::int64_t kLongestHeader = 100'000'000;  // the format's own limit
constexpr const char* kMetadata = "__metadata__";
constexpr const char* kNoCrc = "00000000";

struct Type {
  const char* name;
  at::ScalarType dtype;
  const char* in_python;
};
constexpr std::array kTypes{
    Type{"F64", at::kDouble, "float64"}, Type{"F32", at::kFloat, "float32"},
    Type{"F16", at::kHalf, "float16"},   Type{"BF16", at::kBFloat16, "bfloat16"},
    Type{"I64", at::kLong, "int64"},     Type{"I32", at::kInt, "int32"},
    Type{"I16", at::kShort, "int16"},    Type{"I8", at::kChar, "int8"},
    Type{"U8", at::kByte, "uint8"},      Type{"BOOL", at::kBool, "bool"}};

const Type* type_of(at::ScalarType dtype) {
  const auto* type = std::find_if(kTypes.begin(), kTypes.end(),
                                  [&](const Type& known) { return known.dtype == dtype; });
  return type == kTypes.end() ? nullptr : type;
}

std::string read_header(const File& file) {
  const std::string& path = file.path();
  std::array<std::uint8_t, kLengthBytes> raw{};
  if (file.size() < kLengthBytes) throw Error(path + ": too short for a safetensors file");
  file.read(0, raw.data(), kLengthBytes);
  std::uint64_t length = 0;  // little-endian
  for (int i = kLengthBytes - 1; i >= 0; --i) length = length << 8 | raw[i];
  if (length > kLongestHeader) throw Error(path + ": not a safetensors file");
  if (static_cast<std::int64_t>(length) > file.size() - kLengthBytes) {
    throw Error(path + ": cut short inside its header, or not a safetensors file");
  }
  std::string header(length, '\0');
  file.read(kLengthBytes, header.data(), static_cast<std::int64_t>(length));
  return header;
}

Entry parse_entry(const json& value, std::int64_t data_start) {
  Entry entry{};
  const auto& type = value.at("dtype").get_ref<const std::string&>();
  const auto* known =
      std::find_if(kTypes.begin(), kTypes.end(), [&](const Type& t) { return type == t.name; });
  if (known == kTypes.end()) throw Error("its type " + type + " is not known here");
  entry.dtype = known->dtype;
  std::uint64_t bytes = c10::elementSize(entry.dtype);
  const json& sizes = value.at("shape");
  if (!sizes.is_array()) throw Error("its shape is no list");
  for (const json& size : sizes) {
    if (!size.is_number_unsigned()) throw Error("a size is no number >= 0");
    entry.sizes.push_back(size.get<std::int64_t>());
    if (c10::mul_overflows(bytes, size.get<std::uint64_t>(), &bytes) || bytes > INT64_MAX) {
      throw Error("its sizes are too large");
    }
  }
  const json& offsets = value.at("data_offsets");
  if (offsets.size() != 2 || !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned() ||
      offsets[1].get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX - data_start) ||
      offsets[0].get<std::uint64_t>() > offsets[1].get<std::uint64_t>()) {
    throw Error("its data_offsets are no place in a file");
  }
  entry.offset = data_start + offsets[0].get<std::int64_t>();
  entry.bytes = offsets[1].get<std::int64_t>() - offsets[0].get<std::int64_t>();
  if (entry.bytes != static_cast<std::int64_t>(bytes)) {
    throw Error("its sizes and type need " + std::to_string(bytes) + " bytes, it has " +
                std::to_string(entry.bytes));
  }
  return entry;
}

// The tensors' bytes cover the file from the header to its end, each byte once.
void check_places(const File& file, std::int64_t start,
                  const std::map<std::string, Entry>& entries) {
  std::vector<const Entry*> order;
  for (const auto& [name, entry] : entries) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
    return std::pair(a->offset, a->bytes) < std::pair(b->offset, b->bytes);
  });
  std::int64_t end = start;
  for (const Entry* entry : order) {
    if (entry->offset != end) {
      throw Error(file.path() + ": damaged: its tensors overlap or leave gaps");
    }
    end += entry->bytes;
  }
  if (end != file.size()) {
    throw Error(file.path() + ": " + (end > file.size() ? "cut short" : "too long") +
                ": by its header it has " + std::to_string(end) + " bytes, in truth " +
                std::to_string(file.size()));
  }
}

// Where in the header the digits are; npos if nowhere.
std::size_t crc32_place(const std::string& header) {
  constexpr std::string_view key = "\"crc32\":\"";
  const auto at = header.find(key);
  return at == std::string::npos || at + key.size() + std::strlen(kNoCrc) > header.size()
             ? std::string::npos
             : at + key.size();
}

std::array<std::uint8_t, kLengthBytes> length_of(const std::string& header) {
  std::array<std::uint8_t, kLengthBytes> raw{};
  for (int i = 0; i < kLengthBytes; ++i) raw[i] = header.size() >> 8 * i & 0xFF;
  return raw;
}

std::uint32_t header_crc32(const std::string& header) {
  const auto length = length_of(header);
  return io::crc32(header.data(), header.size(), io::crc32(length.data(), length.size(), 0));
}

std::string digits(std::uint32_t sum) {
  std::array<char, 9> text{};
  std::snprintf(text.data(), text.size(), "%08x", sum);
  return text.data();
}

}  // namespace

SafeTensors::SafeTensors(std::string path) : file_(std::move(path)), header_(read_header(file_)) {
  const std::int64_t start = kLengthBytes + static_cast<std::int64_t>(header_.size());
  std::string name = "its header";
  try {
    const json header = json::parse(header_);
    for (const auto& [key, value] : header.items()) {
      name = key;
      if (key == kMetadata) {
        metadata_ = value.get<Metadata>();
      } else {
        entries_.emplace(key, parse_entry(value, start));
      }
    }
  } catch (const json::exception&) {
    throw Error(file_.path() + ": damaged, or not a safetensors file: " + name + " cannot be read");
  } catch (const Error& error) {
    throw Error(file_.path() + ": damaged: " + name + ": " + error.what());
  }
  check_places(file_, start, entries_);
}

const Entry& SafeTensors::entry(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) throw Error(file_.path() + ": has no tensor named " + name);
  return found->second;
}

at::Tensor SafeTensors::read(const std::string& name) const {
  const Entry& place = entry(name);
  at::Tensor tensor = at::empty(place.sizes, place.dtype);
  file_.read(place.offset, tensor.mutable_data_ptr(), place.bytes);
  return tensor;
}

void SafeTensors::check_crc32() const {
  const auto at = crc32_place(header_);
  if (at == std::string::npos) throw Error(file_.path() + ": has no checksum (crc32)");
  std::string header = header_;
  const std::string expected = header.substr(at, std::strlen(kNoCrc));
  header.replace(at, std::strlen(kNoCrc), kNoCrc);
  std::uint32_t sum = header_crc32(header);
  std::vector<char> piece(1 << 20);
  std::int64_t offset = kLengthBytes + static_cast<std::int64_t>(header.size());
  while (offset < file_.size()) {
    const auto bytes = std::min<std::int64_t>(std::ssize(piece), file_.size() - offset);
    file_.read(offset, piece.data(), bytes);
    sum = io::crc32(piece.data(), bytes, sum);
    offset += bytes;
  }
  if (digits(sum) != expected) {
    throw Error(file_.path() + ": damaged: its checksum (crc32) is " + digits(sum) + ", not " +
                expected);
  }
}

void write_safetensors(const std::string& path, const NamedTensors& tensors, Metadata metadata) {
  NamedTensors order = tensors;  // the widest first, so that each one lies where its type wants it
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return a.second.element_size() > b.second.element_size();
  });
  metadata["crc32"] = kNoCrc;
  json header{{kMetadata, metadata}};
  std::size_t end = 0;
  for (const auto& [name, tensor] : order) {
    const Type* type = type_of(tensor.scalar_type());
    if (type == nullptr) {
      throw Error(path + ": " + name + " is " + describe(tensor.scalar_type(), tensor.sizes()) +
                  ", a type that safetensors files do not have");
    }
    header[name] = {{"dtype", type->name},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {end, end + tensor.nbytes()}}};
    end += tensor.nbytes();
  }
  std::string text = header.dump();
  text.append((kLengthBytes - text.size() % kLengthBytes) % kLengthBytes, ' ');

  std::uint32_t sum = header_crc32(text);
  for (const auto& [name, tensor] : order) {
    sum = io::crc32(tensor.contiguous().const_data_ptr(), tensor.nbytes(), sum);
  }
  text.replace(crc32_place(text), std::strlen(kNoCrc), digits(sum));
  AtomicFile file(path);
  const auto length = length_of(text);
  file.write(length.data(), length.size());
  file.write(text.data(), text.size());
  for (const auto& [name, tensor] : order) {
    file.write(tensor.contiguous().const_data_ptr(), tensor.nbytes());
  }
  file.commit();
}

std::string describe(at::ScalarType dtype, at::IntArrayRef sizes) {
  const Type* type = type_of(dtype);
  std::string text = type == nullptr ? c10::toString(dtype) : type->in_python;
  const char* before = " [";
  for (const auto size : sizes) text += std::exchange(before, ", ") + std::to_string(size);
  return text + (sizes.empty() ? " []" : "]");
}

}  // namespace fxpass::trainer
