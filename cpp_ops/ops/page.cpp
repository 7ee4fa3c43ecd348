// page: a lazy handle that keeps a value in a file in a directory.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "ops/node.h"
#include "ops/schema.h"
#include "paging/buffer.h"
#include "saved/codec.h"
#include "saved/page.h"

namespace fxpass {
namespace {

// One buffer is on its way to the disk or from it while another is filled or emptied.
constexpr std::int64_t kLeastBufferBytes = 2 * paging::Buffer::cost(paging::kChunk);

SavedPtr page(const at::Tensor& x, c10::string_view directory, std::int64_t buffer_bytes) {
  TORCH_CHECK_VALUE(buffer_bytes >= kLeastBufferBytes, "fxpass::page: expected buffer_bytes of ",
                    kLeastBufferBytes, " at least, got ", buffer_bytes);
  if (!at::GradMode::is_enabled() || !codec::is_plain(x)) return c10::make_intrusive<Saved>();
  return c10::make_intrusive<PageSaved>(x, std::string(directory), buffer_bytes);
}

TORCH_LIBRARY_FRAGMENT(fxpass, m) {
  m.def(
      fxpass::opaque("page(Tensor x, str directory, int buffer_bytes=33554432) -> "
                     "__torch__.torch.classes.fxpass.Saved"));
}

FXPASS_REGISTER("page", page)

}  // namespace
}  // namespace fxpass
