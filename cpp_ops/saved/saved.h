// Saved: a recipe for restoring a value, bit for bit, when backward asks for it.
//
// A producer (relu, pad, ...) returns a handle beside its dense output. The handle costs nothing
// until a consumer (conv, linear, ...) that will need the value in backward claims it with the
// dense value still at hand (see kept.h); only then is a payload packed.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/StorageImpl.h>
#include <torch/custom_class.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "memory/part.h"

namespace fxpass {

// Where a tensor lies in its storage.
struct Geometry {
  std::vector<std::int64_t> sizes, strides;
  std::int64_t offset = 0;

  static Geometry of(const at::Tensor& tensor);
  // The lowest and one past the highest element that a tensor of this geometry touches.
  std::pair<std::int64_t, std::int64_t> extent() const;
};

// Which bytes a handle stands for: one storage, at one version. Holds neither the bytes nor the
// autograd graph alive, and the weak reference keeps the address from being reused.
class Identity {
 public:
  Identity() = default;
  explicit Identity(const at::Tensor& tensor);

  // Whether `tensor` lies in this storage and nothing has written to it since.
  bool covers(const at::Tensor& tensor) const;
  // Raises eager's "modified by an inplace operation" error if the bytes were written to since.
  void check_unmodified(const char* op) const;

 private:
  c10::weak_intrusive_ptr<c10::StorageImpl> storage_{c10::intrusive_ptr<c10::StorageImpl>()};
  c10::VariableVersion version_;
  std::uint32_t saved_version_ = 0;
};

// A restored value that several consumers of one backward share. It lives until the last of them
// has taken it, and until the end of the graph task at the latest (a consumer may be skipped by
// autograd.grad on some inputs, and backward may raise).
class RestoredCache {
 public:
  at::Tensor take(int task);
  void put(int task, const at::Tensor& value, int takers);
  void drop(int task);

 private:
  std::mutex mutex_;
  at::Tensor value_;
  int task_ = -1;
  int takers_ = 0;
};

// For how many fetches a restored value is held, by the plan; see Saved::hold_for.
class Holds {
 public:
  void set(std::vector<std::int64_t> fetches);
  // Of the next restoration in this graph task, its own fetch among them; `otherwise`: not planned.
  std::int64_t next(int task, std::int64_t otherwise);

 private:
  std::mutex mutex_;
  std::vector<std::int64_t> fetches_;
  std::size_t next_ = 0;
  int task_ = -1;
};

class Saved : public torch::CustomClassHolder {
 public:
  // Restores nothing until bind() has told it what.
  Saved() = default;
  // `value`: the tensor this handle restores.
  explicit Saved(const at::Tensor& value) { bind(value); }
  // Tells a handle that was made before its value what it restores; once.
  void bind(const at::Tensor& value);

  // Whether `value` lies within the bytes this handle restores, unmodified since.
  bool matches(const at::Tensor& value) const;
  // A consumer will need the value in backward; `value` is any view of it, alive now. False: the
  // recipe does not pay here (or cannot be shown exact), the consumer keeps the dense tensor.
  bool claim(const at::Tensor& value);
  void unclaim() { --claims_; }
  // The restored value with the sizes and strides of the tensor given to the constructor.
  // Raises if the bytes were modified in place since forward. `op` names the consumer.
  at::Tensor fetch(const char* op);
  // The same without that check: a payload is a copy, and eager may keep no tensor here to check.
  at::Tensor fetch_unchecked();
  // How many fetches each restoration of one backward serves, the first one first: between them the
  // value is let go and restored again. Without, and after the last, one serves all that are left.
  void hold_for(std::vector<std::int64_t> fetches);

  // Bytes of the payload kept now; 0 before the first claim.
  virtual std::int64_t nbytes() const { return 0; }
  virtual std::string recipe() const { return "dense"; }

  const Geometry& geometry() const { return geometry_; }

 protected:
  // Packs the payload from `base`, the value given to the constructor; false: keep it dense.
  virtual bool pack(const at::Tensor& base) {
    (void)base;
    return false;
  }
  virtual at::Tensor restore() { return {}; }

  const Identity& identity() const { return identity_; }
  at::ScalarType dtype() const { return dtype_; }

 private:
  Identity identity_;
  Geometry geometry_;
  at::ScalarType dtype_ = at::kFloat;
  std::int32_t part_ = memory::this_part().number;  // that made the value
  std::mutex pack_mutex_;
  enum class Packed { NotYet, Yes, Refused } packed_ = Packed::NotYet;
  std::atomic<int> claims_{0};
  Holds holds_;
  std::shared_ptr<RestoredCache> cache_ = std::make_shared<RestoredCache>();
};

using SavedPtr = c10::intrusive_ptr<Saved>;

}  // namespace fxpass
