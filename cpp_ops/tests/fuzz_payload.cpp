// Payloads as an attacker or a broken disk would make them: random bytes go through every target's
// unpack, gather and code kernels. Each must stay inside its buffers (which end at a page nobody
// may touch), agree with the scalar target, and give back on packing what it unpacked.
//
//   fuzz_payload [seconds] [seed]      random inputs, by default for 10 seconds
// The entry point is LLVM's, so clang can link this file with -fsanitize=fuzzer -DFXPASS_LIBFUZZER.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "kernels_support.h"

namespace fxpass::kernels {
namespace {

void require(bool holds, const char* what, const Kernels& k) {
  if (holds) return;
  std::fprintf(stderr, "%s: %s\n", k.name, what);
  std::abort();
}

// Takes numbers from the front of the input and the payload from the rest; reads zeros past it.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {}

  std::uint8_t byte() { return left_ == 0 ? 0 : (--left_, *data_++); }
  std::int64_t below(std::int64_t limit) { return (byte() << 8 | byte()) % limit; }
  void fill(Buffer& buffer) {
    for (std::int64_t i = 0; i < buffer.size(); ++i) buffer.data()[i] = byte();
  }

 private:
  const std::uint8_t* data_;
  std::size_t left_;
};

void fuzz_bitmap(const Kernels& k, Input input) {
  const DType dtype = kDTypes[input.below(4)];
  const int bytes = element_size(dtype);
  const std::int64_t n = input.below(600);
  Buffer bits(words_for(n) * 8);
  input.fill(bits);
  std::int64_t set = 0;
  for (std::int64_t i = 0; i < n; ++i) set += bits.data()[i / 8] >> (i % 8) & 1;
  Buffer values(set * bytes);
  input.fill(values);

  Buffer dense(n * bytes);
  Buffer expected(n * bytes);
  const Kernels& scalar = *kernels_for("scalar");
  k.bitmap_unpack(dtype, bits.as<std::uint64_t>(), n, values.data(), dense.data());
  scalar.bitmap_unpack(dtype, bits.as<std::uint64_t>(), n, values.data(), expected.data());
  require(dense == expected && dense.intact(), "unpack differs", k);

  Buffer again(set * bytes);
  k.bitmap_gather(dtype, dense.data(), bits.as<std::uint64_t>(), n, again.data());
  require(again == values && again.intact(), "gather does not give the values back", k);

  // Packing what was unpacked drops the values that are zero, and nothing else.
  Buffer own_bits(words_for(n) * 8);
  Buffer own_values(n * bytes);
  const std::int64_t count =
      k.bitmap_pack(dtype, dense.data(), n, own_bits.as<std::uint64_t>(), own_values.data());
  require(count <= set, "pack found more values than there are", k);
  Buffer back(n * bytes);
  k.bitmap_unpack(dtype, own_bits.as<std::uint64_t>(), n, own_values.data(), back.data());
  require(back == dense, "pack and unpack do not give the elements back", k);

  Buffer selected(n * bytes);
  k.select(dtype, dense.data(), bits.as<std::uint64_t>(), n, selected.data());
  require(selected == dense && selected.intact(), "select changed what the mask keeps", k);
}

void fuzz_codes(const Kernels& k, Input input) {
  const int width = 1 + static_cast<int>(input.below(8));
  const std::int64_t n = input.below(600);
  const std::int64_t begin = input.below(n + 1);
  Buffer words(words_for(n) * width * 8);
  input.fill(words);
  Buffer codes(n - begin);
  Buffer expected(n - begin);
  const auto* payload = words.as<std::uint64_t>();
  k.codes_unpack(payload, begin, n - begin, width, codes.data());
  kernels_for("scalar")->codes_unpack(payload, begin, n - begin, width, expected.data());
  require(codes == expected && codes.intact(), "codes_unpack differs", k);

  Buffer all(n);
  k.codes_unpack(payload, 0, n, width, all.data());
  Buffer packed(words.size());
  Buffer packed_by_scalar(words.size());
  k.codes_pack(all.data(), n, width, packed.as<std::uint64_t>());
  kernels_for("scalar")->codes_pack(all.data(), n, width, packed_by_scalar.as<std::uint64_t>());
  require(packed == packed_by_scalar && packed.intact(), "codes_pack differs", k);
}

// Whatever the codes say, the gradient stays inside the image.
void fuzz_pool(const Kernels& k, Input input) {
  const bool channels_last = input.below(2) == 1;
  Pool2d p{};
  p.channels = channels_last ? 1 + input.below(40) : 1;
  p.kernel_h = 1 + input.below(4), p.kernel_w = 1 + input.below(4);
  p.stride_h = 1 + input.below(3), p.stride_w = 1 + input.below(3);
  p.dilation_h = 1 + input.below(2), p.dilation_w = 1 + input.below(2);
  p.pad_h = input.below(p.kernel_h / 2 + 1), p.pad_w = input.below(p.kernel_w / 2 + 1);
  p.in_h = 1 + input.below(9), p.in_w = 1 + input.below(60);
  p.out_h = (p.in_h + 2 * p.pad_h - 1) / p.stride_h + 1;  // some windows hang over the edge
  p.out_w = (p.in_w + 2 * p.pad_w - 1) / p.stride_w + 1;
  const std::int64_t outputs = p.out_h * p.out_w * p.channels;
  Buffer codes(outputs);
  input.fill(codes);
  Buffer grad_out(outputs * 4);
  for (std::int64_t i = 0; i < outputs; ++i) grad_out.as<float>()[i] = static_cast<float>(i % 7);
  Buffer grad_in(p.in_h * p.in_w * p.channels * 4);
  Buffer expected(grad_in.size());
  const auto backward = channels_last ? k.max_pool2d_nhwc_backward : k.max_pool2d_nchw_backward;
  backward(DType::F32, p, grad_out.data(), codes.data(), grad_in.data());
  kernels_for("scalar")->max_pool2d_nchw_backward(DType::F32, p, grad_out.data(), codes.data(),
                                                  expected.data());
  require(grad_in == expected && grad_in.intact(), "pool backward differs", k);
}

}  // namespace
}  // namespace fxpass::kernels

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace fxpass::kernels;
  for (const Kernels* k : targets()) {
    fuzz_bitmap(*k, Input(data, size));
    fuzz_codes(*k, Input(data, size));
    fuzz_pool(*k, Input(data, size));
  }
  return 0;
}

#if !defined(FXPASS_LIBFUZZER)
int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::stod(argv[1]) : 10.0;
  const unsigned long long seed = argc > 2 ? std::stoull(argv[2]) : 1;
  std::mt19937_64 random(seed);
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [start] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  std::int64_t inputs = 0;
  std::vector<std::uint8_t> data;
  while (elapsed() < seconds) {
    data.resize(random() % 8192);
    const std::uint64_t sparse = random() % 4;  // payloads of few bits, of many, and of all kinds
    for (auto& byte : data) {
      byte = static_cast<std::uint8_t>(sparse == 0 ? random() & random() & random() : random());
      if (sparse == 1) byte |= static_cast<std::uint8_t>(random() | random());
    }
    LLVMFuzzerTestOneInput(data.data(), data.size());
    ++inputs;
  }
  std::printf("%lld payloads (seed %llu), no fault\n", static_cast<long long>(inputs), seed);
  return 0;
}
#endif
