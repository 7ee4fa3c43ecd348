// The page recipe: the value in a file (paging/store.h), nothing in memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "paging/store.h"
#include "saved/saved.h"

namespace fxpass {

class PageSaved final : public Saved {
 public:
  // `buffer_bytes`: see paging::Store::put.
  PageSaved(const at::Tensor& value, std::string directory, std::int64_t buffer_bytes);

  // Bytes that are still in memory, waiting for the disk.
  std::int64_t nbytes() const override { return page_ ? page_->waiting_bytes() : 0; }
  std::string recipe() const override { return "page"; }

 protected:
  bool pack(const at::Tensor& base) override;
  at::Tensor restore() override;

 private:
  at::TensorOptions options_;
  std::string directory_;
  std::int64_t buffer_bytes_;
  std::unique_ptr<paging::Page> page_;
};

}  // namespace fxpass
