#include "trainer/report.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

namespace fxpass::trainer {
namespace {

using nlohmann::json;

// Flushed: whoever reads them wants to know now.
void print(const std::string& line) {
  std::puts(line.c_str());
  std::fflush(stdout);
}

double share(std::int64_t part, std::int64_t whole) {
  return static_cast<double>(part) / static_cast<double>(whole);
}

std::string decimals(double value, int count) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", count, value);
  return text;
}

std::string mebibytes(std::int64_t bytes) {
  return decimals(static_cast<double>(bytes) / (1 << 20), 1) + " MiB";
}

std::string percent(double value) { return decimals(100 * value, 1) + "%"; }

}  // namespace

void Report::step(std::int64_t step, double loss) const {
  // Both have every digit that it takes to read the same number again.
  print(json_ ? json{{"step", step}, {"loss", loss}}.dump()
              : "step " + std::to_string(step) + "  loss " + json(loss).dump());
}

void Report::epoch(const EpochReport& e) const {
  const Progress& p = e.progress;
  const double loss = p.loss_sum / static_cast<double>(p.rows);
  const double accuracy = share(p.right, p.rows);
  if (json_) {
    json line{{"epoch", e.epoch},
              {"complete", e.complete},
              {"steps", p.steps},
              {"loss", loss},
              {"seconds", e.seconds},
              {"peak_bytes", e.peak_bytes},
              {"resident_bytes_before_model", e.resident_bytes_before_model},
              {"peak_resident_bytes", e.peak_resident_bytes}};
    if (e.has_accuracy) line["accuracy"] = accuracy;
    if (e.evaluation) {
      line["eval_loss"] = e.evaluation->loss;
      if (e.evaluation->accuracy) line["eval_accuracy"] = *e.evaluation->accuracy;
    }
    return print(line.dump());
  }
  std::string line = "epoch " + std::to_string(e.epoch) + (e.complete ? "" : " (part of it)") +
                     "  loss " + decimals(loss, 6);
  if (e.has_accuracy) line += "  accuracy " + percent(accuracy);
  if (e.evaluation) {
    line += "  evaluation: loss " + decimals(e.evaluation->loss, 6);
    if (e.evaluation->accuracy) line += "  accuracy " + percent(*e.evaluation->accuracy);
  }
  print(line + "  " + decimals(e.seconds, 1) + " s  peak " + mebibytes(e.peak_bytes) +
        "  resident " + mebibytes(e.peak_resident_bytes) + " (" +
        mebibytes(e.resident_bytes_before_model) + " before the model)");
}

void Report::note(const std::string& text) const {
  print(json_ ? json{{"note", text}}.dump() : text);
}

}  // namespace fxpass::trainer
