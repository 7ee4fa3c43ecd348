// Source: aten::max_pool2d_with_indices and its backward (values, ties, NaN, order of additions).

#include "ops/max_pool2d.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/native/Pool.h>

#include <algorithm>

#include "kernels/kernels.h"
#include "ops/node.h"
#include "saved/codec.h"
#include "saved/codes.h"
#include "saved/mask.h"

namespace fxpass {
namespace {

using kernels::kernels;
using kernels::Pool2d;

constexpr std::int64_t kChunk = 4096;  // outputs a task computes before their codes are packed

struct Pooling {
  Pool2d geometry;
  kernels::DType dtype;
  at::MemoryFormat format;
  std::vector<std::int64_t> input_sizes, output_sizes;
  int width;

  bool nhwc() const { return format == at::MemoryFormat::ChannelsLast; }
  // Planes (NCHW) or images (NHWC): the parts of the gradient that do not touch each other.
  std::int64_t parts() const {
    return nhwc() ? input_sizes[0]
                  : c10::multiply_integers(input_sizes.begin(), input_sizes.end() - 2);
  }
  std::int64_t part_outputs() const { return geometry.out_h * geometry.out_w * geometry.channels; }
  std::int64_t part_inputs() const { return geometry.in_h * geometry.in_w * geometry.channels; }
};

// One output size; 0 where the arguments are for ATen to judge.
std::int64_t output_size(std::int64_t in, std::int64_t kernel, std::int64_t pad,
                         std::int64_t stride, std::int64_t dilation, bool ceil_mode) {
  if (kernel < 1 || stride < 1 || dilation < 1 || pad < 0) return 0;
  if (pad > kernel / 2 || in + 2 * pad < (kernel - 1) * dilation + 1) return 0;
  return std::max<std::int64_t>(0, at::native::pooling_output_shape<std::int64_t>(
                                       in, kernel, pad, stride, dilation, ceil_mode));
}

std::optional<Pooling> plan(const at::Tensor& x, const PoolArgs& args, bool fused_relu) {
  const auto dtype = codec::kernel_dtype(x.scalar_type());
  if (!dtype || (*dtype != kernels::DType::F32 && *dtype != kernels::DType::F64)) return {};
  if (!codec::is_flat(x) || x.numel() == 0 || (x.dim() != 4 && x.dim() != 3)) return {};
  // Ambiguous layouts (one channel, one pixel) are left to ATen, which chooses between them.
  const bool nchw = x.is_contiguous();
  const bool nhwc = x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast);
  if (nchw == nhwc || !has_canonical_strides(x)) return {};
  const auto pair = [](at::IntArrayRef list, int i) {
    return list.size() == 1 ? list[0] : list.size() == 2 ? list[i] : 0;
  };
  const auto strides = args.stride.empty() ? args.kernel_size : args.stride;
  Pool2d g{};
  g.in_h = x.size(-2);
  g.in_w = x.size(-1);
  g.kernel_h = pair(args.kernel_size, 0);
  g.kernel_w = pair(args.kernel_size, 1);
  g.stride_h = pair(strides, 0);
  g.stride_w = pair(strides, 1);
  g.dilation_h = pair(args.dilation, 0);
  g.dilation_w = pair(args.dilation, 1);
  if (args.padding.size() != 1 && args.padding.size() != 2) return {};
  g.pad_h = args.padding[0];
  g.pad_w = args.padding.size() == 1 ? args.padding[0] : args.padding[1];
  g.out_h = output_size(g.in_h, g.kernel_h, g.pad_h, g.stride_h, g.dilation_h, args.ceil_mode);
  g.out_w = output_size(g.in_w, g.kernel_w, g.pad_w, g.stride_w, g.dilation_w, args.ceil_mode);
  g.channels = nhwc ? x.size(1) : 1;
  g.fused_relu = fused_relu;
  if (g.out_h < 1 || g.out_w < 1) return {};
  const Windows windows{
      {Windows::strided(g.in_h, g.out_h, g.kernel_h, g.stride_h, g.pad_h, g.dilation_h),
       Windows::strided(g.in_w, g.out_w, g.kernel_w, g.stride_w, g.pad_w, g.dilation_w)}};
  if (!windows.fits_codes()) return {};
  Pooling pooling{g,
                  *dtype,
                  nhwc ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous,
                  x.sizes().vec(),
                  x.sizes().vec(),
                  windows.width()};
  pooling.output_sizes[x.dim() - 2] = g.out_h;
  pooling.output_sizes[x.dim() - 1] = g.out_w;
  return pooling;
}

struct Pooled {
  at::Tensor values, planes;
};

Pooled forward(at::Tensor x, const Pooling& p, bool wants_codes) {
  // The kernels' own relu then changes nothing more.
  if (p.geometry.fused_relu && !kernels_relu_as_aten(x.scalar_type())) x = at::relu(x);
  Pooled out{at::empty(p.output_sizes, x.options().memory_format(p.format)), {}};
  if (wants_codes) {
    out.planes = codes::new_planes(c10::multiply_integers(p.output_sizes), p.width);
  }
  const auto n = out.values.numel();
  const auto pool = p.nhwc() ? kernels().max_pool2d_nhwc : kernels().max_pool2d_nchw;
  const auto* src = x.const_data_ptr();
  auto* dst = out.values.data_ptr();
  at::parallel_for(0, (n + kChunk - 1) / kChunk, 1, [&](std::int64_t first, std::int64_t last) {
    std::array<std::uint8_t, kChunk> bytes;
    for (auto chunk = first; chunk < last; ++chunk) {
      const auto begin = chunk * kChunk, end = std::min(n, begin + kChunk);
      pool(p.dtype, p.geometry, src, dst, bytes.data(), begin, end);
      if (wants_codes) codes::pack(bytes.data(), begin, end - begin, p.width, out.planes);
    }
  });
  return out;
}

// Whether every code of one part names a position inside the image. Only a payload that the user's
// saved_tensors_hooks changed has others, and backward must not write where they point.
bool lie_inside(const std::vector<std::uint8_t>& codes, const Pool2d& g) {
  if (*std::max_element(codes.begin(), codes.end()) > g.kernel_h * g.kernel_w) return false;
  // Windows that stick out of the image, along one axis: these alone need a look at each code.
  const auto sticks_out = [](std::int64_t o, std::int64_t in, std::int64_t kernel, std::int64_t pad,
                             std::int64_t stride, std::int64_t dilation) {
    const auto start = o * stride - pad;
    return start < 0 || start + (kernel - 1) * dilation >= in;
  };
  for (std::int64_t oh = 0; oh < g.out_h; ++oh) {
    const bool row = sticks_out(oh, g.in_h, g.kernel_h, g.pad_h, g.stride_h, g.dilation_h);
    for (std::int64_t ow = 0; ow < g.out_w; ++ow) {
      if (!row && !sticks_out(ow, g.in_w, g.kernel_w, g.pad_w, g.stride_w, g.dilation_w)) continue;
      for (std::int64_t c = 0; c < g.channels; ++c) {
        const int code = codes[(oh * g.out_w + ow) * g.channels + c];
        if (code == 0) continue;
        const auto h = oh * g.stride_h - g.pad_h + (code - 1) / g.kernel_w * g.dilation_h;
        const auto w = ow * g.stride_w - g.pad_w + (code - 1) % g.kernel_w * g.dilation_w;
        if (h < 0 || h >= g.in_h || w < 0 || w >= g.in_w) return false;
      }
    }
  }
  return true;
}

class MaxPool2dNode final : public FxNode {
 public:
  MaxPool2dNode() : FxNode("max_pool2d") {}

  void save(const at::Tensor& x, const at::Tensor& planes, Pooling pooling) {
    // The fused form never had the pooled value in sight; x, in front of the ReLU, is not saved.
    if (!pooling.geometry.fused_relu) input_ = Identity(x);
    planes_ = torch::autograd::SavedVariable(planes, /*is_output=*/false);
    pooling_ = std::move(pooling);
  }

 protected:
  variable_list backward(variable_list& grads) override {
    const auto planes = planes_.unpack();
    input_.check_unmodified("fxpass::max_pool2d");
    const auto& p = pooling_;
    const auto count = c10::multiply_integers(p.output_sizes);
    codec::check_words(planes, kernels::words_for(count) * p.width, "fxpass::max_pool2d");
    const auto grad = std::move(grads[0]).contiguous(p.format);
    auto out = at::empty(p.input_sizes, grad.options().memory_format(p.format));
    const auto kernel =
        p.nhwc() ? kernels().max_pool2d_nhwc_backward : kernels().max_pool2d_nchw_backward;
    const auto size = element_size(p.dtype);
    const auto* src = static_cast<const char*>(grad.const_data_ptr());
    auto* dst = static_cast<char*>(out.data_ptr());
    const auto outputs = p.part_outputs(), inputs = p.part_inputs();
    at::parallel_for(0, p.parts(), 1, [&](std::int64_t first, std::int64_t last) {
      std::vector<std::uint8_t> bytes(outputs);
      for (auto part = first; part < last; ++part) {
        codes::unpack(planes, part * outputs, outputs, p.width, bytes.data());
        TORCH_CHECK(lie_inside(bytes, p.geometry),
                    "fxpass::max_pool2d: the payload names positions "
                    "outside the image (did a saved_tensors_hooks change it?)");
        kernel(p.dtype, p.geometry, src + part * outputs * size, bytes.data(),
               dst + part * inputs * size);
      }
    });
    return {out};
  }

  void release() override { planes_.reset_data(); }

 private:
  torch::autograd::SavedVariable planes_;
  Identity input_;
  Pooling pooling_{};
};

}  // namespace

std::optional<at::Tensor> max_pool2d_by_kernels(const at::Tensor& x, const PoolArgs& args,
                                                bool fused_relu) {
  if (!torch::autograd::compute_requires_grad(x) || has_tangent(x)) return std::nullopt;
  auto pooling = plan(x, args, fused_relu);
  if (!pooling) return std::nullopt;
  const auto node = make_node<MaxPool2dNode>(x);
  Pooled out;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    out = forward(x, *pooling, /*wants_codes=*/true);
  }
  torch::autograd::set_history(out.values, node);
  node->save(x, out.planes, std::move(*pooling));
  return out.values;
}

std::optional<at::Tensor> max_pool2d_again(const at::Tensor& x, const PoolArgs& args,
                                           bool fused_relu) {
  const auto pooling = plan(x, args, fused_relu);
  if (!pooling) return std::nullopt;
  return forward(x, *pooling, /*wants_codes=*/false).values;
}

}  // namespace fxpass
