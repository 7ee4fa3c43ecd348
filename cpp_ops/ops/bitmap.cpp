// bitmap: a lazy bitmap handle for a value that is expected to be sparse; bitmap_pack and
// bitmap_unpack: the codec itself.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "ops/node.h"
#include "ops/schema.h"
#include "saved/bitmap.h"
#include "saved/codec.h"

namespace fxpass {
namespace {

SavedPtr bitmap(const at::Tensor& x) {
  if (!at::GradMode::is_enabled() || !codec::is_flat(x)) return c10::make_intrusive<Saved>();
  return c10::make_intrusive<BitmapSaved>(x);
}

std::tuple<at::Tensor, at::Tensor> bitmap_pack(const at::Tensor& x) {
  TORCH_CHECK(codec::kernel_dtype(x.scalar_type()).has_value(),
              "fxpass.bitmap.pack: expected float32, float64, bfloat16 or float16, got ",
              x.scalar_type(), "; convert the tensor first");
  TORCH_CHECK(codec::is_flat(x),
              "fxpass.bitmap.pack: expected a dense CPU tensor without overlap, got ", x.layout(),
              " on ", x.device(), " with sizes ", x.sizes(), " and strides ", x.strides(),
              "; pass x.contiguous()");
  auto packed = codec::pack(x.detach());
  return {std::move(packed.bits), std::move(packed.values)};
}

at::Tensor bitmap_unpack(const at::Tensor& bits, const at::Tensor& values, at::IntArrayRef sizes,
                         at::IntArrayRef strides) {
  TORCH_CHECK(
      codec::kernel_dtype(values.scalar_type()).has_value(),
      "fxpass.bitmap.unpack: expected values of float32, float64, bfloat16 or float16, got ",
      values.scalar_type());
  for (const auto size : sizes) {
    TORCH_CHECK(size >= 0, "fxpass.bitmap.unpack: negative size in ", sizes);
  }
  TORCH_CHECK(bits.device().is_cpu() && values.device().is_cpu(),
              "fxpass.bitmap.unpack: expected CPU tensors, got ", bits.device(), " and ",
              values.device());
  const auto out = at::empty_strided(sizes, strides, values.options());
  TORCH_CHECK(codec::is_flat(out),
              "fxpass.bitmap.unpack: expected the strides of a dense tensor "
              "without overlap, got sizes ",
              sizes, " and strides ", strides);
  codec::unpack(bits, values, out);
  return out;
}

TORCH_LIBRARY_FRAGMENT(fxpass, m) {
  m.def(fxpass::opaque("bitmap(Tensor x) -> __torch__.torch.classes.fxpass.Saved"));
  m.def("bitmap_pack(Tensor x) -> (Tensor, Tensor)");
  m.def("bitmap_unpack(Tensor bits, Tensor values, int[] sizes, int[] strides) -> Tensor");
}

FXPASS_REGISTER("bitmap", bitmap)

// Nothing to differentiate, and the size of a result depends on its values: below autograd a fake
// tensor finds the fake kernels of fxpass/_fake.py.
TORCH_LIBRARY_IMPL(fxpass, Autograd, m) {
  m.impl("bitmap_pack", torch::CppFunction::makeFallthrough());
  m.impl("bitmap_unpack", torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(fxpass, CompositeExplicitAutograd, m) {
  m.impl("bitmap_pack", bitmap_pack);
  m.impl("bitmap_unpack", bitmap_unpack);
}

}  // namespace
}  // namespace fxpass
