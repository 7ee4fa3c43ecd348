// The "nothing" recipe: backward asks for a tensor but reads only its sizes and strides.
#pragma once

#include <ATen/core/Tensor.h>

#include "saved/saved.h"

namespace fxpass {

// What is left of a value of which backward needs no element.
class ShapeOnly {
 public:
  ShapeOnly() = default;
  explicit ShapeOnly(const at::Tensor& value);

  // A tensor of the same sizes, strides and dtype that takes address space and no memory: its pages
  // are never written, and read as zeros if anybody looks.
  at::Tensor tensor() const;
  const Geometry& geometry() const { return geometry_; }

 private:
  Geometry geometry_;
  at::TensorOptions options_;
};

}  // namespace fxpass
