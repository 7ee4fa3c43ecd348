// What the program prints on stdout: lines to read, or with --json one JSON object a line.
#pragma once

#include <cstdint>
#include <optional>

#include "trainer/checkpoint.h"

namespace fxpass::trainer {

struct Evaluation {
  double loss;
  std::optional<double> accuracy;  // of cross-entropy
};

struct EpochReport {
  std::int64_t epoch;  // from 1
  Progress progress;   // its batches so far
  bool complete;       // or stopped within
  bool has_accuracy;
  double seconds;           // of this process in this epoch
  std::int64_t peak_bytes;  // the most live at once in torch's CPU allocator, in this epoch
  std::int64_t resident_bytes_before_model, peak_resident_bytes;
  std::optional<Evaluation> evaluation;
};

class Report {
 public:
  explicit Report(bool json) : json_(json) {}

  void step(std::int64_t step, double loss) const;
  void epoch(const EpochReport& epoch) const;
  // A sentence for people; with --json {"note": ...}.
  void note(const std::string& text) const;

 private:
  bool json_;
};

}  // namespace fxpass::trainer
