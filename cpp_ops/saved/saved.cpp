#include "saved/saved.h"

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/library.h>

#include "saved/codec.h"
#include "saved/task_end.h"

namespace fxpass {

Geometry Geometry::of(const at::Tensor& tensor) {
  return {tensor.sizes().vec(), tensor.strides().vec(), tensor.storage_offset()};
}

std::pair<std::int64_t, std::int64_t> Geometry::extent() const {
  std::int64_t low = offset, high = offset + 1;
  for (std::size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] == 0) return {offset, offset};
    const auto reach = (sizes[d] - 1) * strides[d];
    (reach < 0 ? low : high) += reach;
  }
  return {low, high};
}

Identity::Identity(const at::Tensor& tensor)
    : storage_(c10::intrusive_ptr<c10::StorageImpl>::reclaim_copy(
          tensor.storage().unsafeGetStorageImpl())),
      version_(tensor.unsafeGetTensorImpl()->version_counter()) {
  // An inference tensor tracks no version, and no autograd graph can hold it either.
  if (version_.enabled()) saved_version_ = version_.current_version();
}

bool Identity::covers(const at::Tensor& tensor) const {
  if (!tensor.has_storage() || !version_.enabled() || tensor.is_inference()) return false;
  return storage_._unsafe_get_target() == tensor.storage().unsafeGetStorageImpl() &&
         version_.current_version() == saved_version_;
}

void Identity::check_unmodified(const char* op) const {
  if (!version_.enabled()) return;
  TORCH_CHECK(version_.current_version() == saved_version_,
              "one of the variables needed for gradient computation has been modified by an "
              "inplace operation: a value that ",
              op, " needs for backward is at version ", version_.current_version(),
              "; expected version ", saved_version_,
              " instead. Hint: write into a clone of it, or enable anomaly detection "
              "(torch.autograd.set_detect_anomaly(True)) to find the operation.");
}

at::Tensor RestoredCache::take(int task) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!value_.defined() || task_ != task) return {};
  return --takers_ > 0 ? value_ : std::move(value_);
}

void RestoredCache::put(int task, const at::Tensor& value, int takers) {
  std::lock_guard<std::mutex> lock(mutex_);
  // Another backward over the same graph may be under way in another thread: its value stays, ours
  // is simply not shared.
  if (value_.defined()) return;
  value_ = value;
  task_ = task;
  takers_ = takers;
}

void RestoredCache::drop(int task) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (task_ == task) value_.reset();
}

void Holds::set(std::vector<std::int64_t> fetches) {
  std::lock_guard<std::mutex> lock(mutex_);
  fetches_ = std::move(fetches);
}

std::int64_t Holds::next(int task, std::int64_t otherwise) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (task_ != task) {
    task_ = task;
    next_ = 0;
  }
  return next_ < fetches_.size() ? fetches_[next_++] : otherwise;
}

void Saved::bind(const at::Tensor& value) {
  if (!value.defined() || !codec::is_plain(value) || !value.has_storage()) return;
  identity_ = Identity(value);
  geometry_ = Geometry::of(value);
  dtype_ = value.scalar_type();
}

bool Saved::matches(const at::Tensor& value) const {
  if (!identity_.covers(value) || value.scalar_type() != dtype_) return false;
  const auto [low, high] = Geometry::of(value).extent();
  const auto [base_low, base_high] = geometry_.extent();
  return base_low <= low && high <= base_high;
}

bool Saved::claim(const at::Tensor& value) {
  if (!matches(value)) return false;
  std::lock_guard<std::mutex> lock(pack_mutex_);
  if (packed_ == Packed::NotYet) {
    at::NoGradGuard no_grad;
    const auto base =
        value.detach().as_strided(geometry_.sizes, geometry_.strides, geometry_.offset);
    const memory::InPart part({part_, memory::Use::Value});
    packed_ = pack(base) ? Packed::Yes : Packed::Refused;
  }
  if (packed_ == Packed::Refused) return false;
  ++claims_;
  return true;
}

void Saved::hold_for(std::vector<std::int64_t> fetches) { holds_.set(std::move(fetches)); }

at::Tensor Saved::fetch(const char* op) {
  identity_.check_unmodified(op);
  return fetch_unchecked();
}

at::Tensor Saved::fetch_unchecked() {
  const int task = torch::autograd::get_current_graph_task_id();
  if (auto shared = cache_->take(task); shared.defined()) return shared;
  // Backward may run in a region: what is done again starts from values as the op saw them, cast.
  c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const memory::RestoreTime time(part_);
  auto value = restore();
  const auto others = holds_.next(task, claims_) - 1;
  if (task != -1 && others > 0) {
    cache_->put(task, value, static_cast<int>(others));
    at_task_end([cache = std::weak_ptr(cache_), task] {
      if (const auto still = cache.lock()) still->drop(task);
    });
  }
  return value;
}

namespace {

// The ops' schemas name this class, so it must be registered before any of them, whichever order
// the linker gives the files.
struct RegisterClass {
  RegisterClass() {
    torch::class_<Saved>("fxpass", "Saved")
        .def("nbytes", [](const SavedPtr& self) { return self->nbytes(); })
        .def("recipe", [](const SavedPtr& self) { return self->recipe(); })
        .def("restore", [](const SavedPtr& self) { return self->fetch_unchecked(); })
        .def("matches",
             [](const SavedPtr& self, const at::Tensor& value) { return self->matches(value); });
  }
};
[[gnu::init_priority(101)]] const RegisterClass register_class;

}  // namespace

}  // namespace fxpass
