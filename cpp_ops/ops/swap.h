// Swapping what ATen's own autograd nodes keep.
//
// Where eager's backward formula is right as it stands and only the saved tensor is too large, the
// op runs eager's own forward and graph, and the saved tensor in the new node is then replaced by a
// recipe: the gradient is eager's by construction. A saved tensor that the user's
// saved_tensors_hooks already took is left alone.
#pragma once

#include <optional>

#include "saved/codes.h"
#include "saved/kept.h"

namespace fxpass::swap {

// `out`: the op's result; `in`: its input, beyond whose node nothing is touched.

// Average pools read only the sizes and strides of the input they save.
void avg_pool_input_by_shape(const at::Tensor& out, const at::Tensor& in);
// So do reflection and replication padding.
void pad_input_by_shape(const at::Tensor& out, const at::Tensor& in);
// Max pools read only the shape of their input; their int64 indices become codes.
void max_pool_by_codes(const at::Tensor& out, const at::Tensor& in, const Windows& windows);
// The input that linear's matrix product saves, by its handle.
void linear_input_by_handle(const at::Tensor& out, const at::Tensor& in,
                            const std::optional<SavedPtr>& handle);

// The input that a batch norm saves, by its handle.
void batch_norm_input_by_handle(const at::Tensor& out, const at::Tensor& in,
                                const std::optional<SavedPtr>& handle);
// What a product saves of its factors, by their handles.
void mul_inputs_by_handle(const at::Tensor& out, const at::Tensor& a,
                          const std::optional<SavedPtr>& a_handle, const at::Tensor& b,
                          const std::optional<SavedPtr>& b_handle);
// The input that a norm, a prelu or a glu saves, by its handle.
void input_by_handle(const at::Tensor& out, const at::Tensor& in,
                     const std::optional<SavedPtr>& handle);
// The result that a softmax, sigmoid or tanh saves, by its handle.
void result_by_handle(const at::Tensor& out, const at::Tensor& in,
                      const std::optional<SavedPtr>& handle);
// The noise that a dropout multiplied with: zeros and one other value.
void mul_noise_by_bits(const at::Tensor& out);

}  // namespace fxpass::swap
