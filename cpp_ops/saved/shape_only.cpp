#include "saved/shape_only.h"

#include <ATen/ATen.h>
#include <sys/mman.h>

namespace fxpass {

ShapeOnly::ShapeOnly(const at::Tensor& value)
    : geometry_(Geometry::of(value)),
      options_(at::TensorOptions().dtype(value.scalar_type()).device(value.device())) {
  geometry_.offset = 0;
}

at::Tensor ShapeOnly::tensor() const {
  const auto [low, high] = geometry_.extent();
  const auto bytes = static_cast<std::size_t>(high - low) * options_.dtype().itemsize();
  if (bytes == 0 || !options_.device().is_cpu()) {
    return at::empty_strided(geometry_.sizes, geometry_.strides, options_);
  }
  void* pages = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  TORCH_CHECK(pages != MAP_FAILED, "fxpass: no address space for a tensor of ", bytes, " bytes");
  return at::from_blob(
      pages, geometry_.sizes, geometry_.strides, [bytes](void* p) { munmap(p, bytes); }, options_);
}

}  // namespace fxpass
