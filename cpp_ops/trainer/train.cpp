#include "trainer/train.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <torch/version.h>

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "memory/tracker.h"
#include "paging/stores.h"
#include "trainer/checkpoint.h"
#include "trainer/dataset.h"
#include "trainer/model.h"
#include "trainer/optimizer.h"
#include "trainer/report.h"
#include "trainer/resident.h"
#include "trainer/sampler.h"
#include "trainer/signals.h"

namespace fxpass::trainer {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

std::unique_ptr<Rule> rule_of(const Options& o) {
  const double lr = o.lr.value_or(1e-3);
  if (o.optimizer == "sgd") {
    return make_sgd({lr, o.momentum, o.dampening, o.weight_decay.value_or(0), o.nesterov});
  }
  const bool decoupled = o.optimizer == "adamw";
  return make_adam(
      {lr, o.beta1, o.beta2, o.eps, o.weight_decay.value_or(decoupled ? 1e-2 : 0), decoupled});
}

// What decides about the bits.
json settings_of(const Options& o, const Dataset& data) {
  json settings{{"torch", TORCH_VERSION},
                {"threads", at::get_num_threads()},
                {"data rows", data.rows()},
                {"data bytes", data.bytes()},
                {"loss", o.loss == Loss::CrossEntropy ? "cross-entropy" : "mse"},
                {"seed", o.seed},
                {"batch-size", o.batch_size},
                {"no-shuffle", o.no_shuffle},
                {"drop-last", o.drop_last},
                {"optimizer", o.optimizer},
                {"lr", o.lr.value_or(1e-3)},
                {"weight-decay", o.weight_decay.value_or(o.optimizer == "adamw" ? 1e-2 : 0)}};
  if (o.optimizer == "sgd") {
    settings.update(
        {{"momentum", o.momentum}, {"dampening", o.dampening}, {"nesterov", o.nesterov}});
  } else {
    settings.update({{"beta1", o.beta1}, {"beta2", o.beta2}, {"eps", o.eps}});
  }
  return settings;
}

LabelRange range_of(Loss loss, const Dataset& data) {
  check_labels(loss, data);
  return loss == Loss::CrossEntropy ? data.label_range() : LabelRange{};
}

// A data file that was looked at, and the model's output against it when there is one.
struct Source {
  Source(const std::string& path, Loss of_loss)
      : data(path), loss(of_loss), range(range_of(loss, data)) {}

  void check(const at::Tensor& output) const { check_output(loss, output, data, range); }

  Dataset data;
  Loss loss;
  LabelRange range;
};

class Trainer {
 public:
  explicit Trainer(const Options& options)
      : o_(options),
        tracker_(memory::begin(false)),
        source_(o_.data, o_.loss),
        sampler_(source_.data.rows(), o_.batch_size, !o_.no_shuffle, o_.drop_last),
        settings_(settings_of(o_, source_.data)),
        resident_before_model_(resident_bytes()),
        model_(o_.model),
        optimizer_(rule_of(o_), model_.parameters()),
        report_(o_.json) {
    model_.check_input(source_.data);
    if (!o_.eval_data.empty()) {
      evaluation_.emplace(o_.eval_data, o_.loss);
      model_.check_input(evaluation_->data);
    }
    if (sampler_.batches() == 0) {
      throw Error(o_.data + ": --drop-last leaves no batch of " + std::to_string(o_.batch_size) +
                  " of its " + std::to_string(source_.data.rows()) + " rows");
    }
    if (!o_.step_after_backward) optimizer_.update_in_backward();
    if (!o_.page_dir.empty()) paging::use_only(o_.page_dir);
    at::manual_seed(static_cast<std::uint64_t>(o_.seed));
    resume();
  }

  ExitCode run() {
    while (progress_.epochs < o_.epochs && !out_of_steps()) {
      if (!epoch()) return kStopped;
    }
    if (!o_.output.empty()) model_.save(o_.output);
    return kDone;
  }

 private:
  void resume() {
    if (o_.checkpoint.empty()) return;
    if (!exists(o_.checkpoint)) {
      if (o_.resume) report_.note("no checkpoint at " + o_.checkpoint + " yet: beginning anew");
      return;
    }
    if (!o_.resume) {
      throw Error(o_.checkpoint + ": is there already; go on from it with --resume, or remove it");
    }
    progress_ = load_checkpoint(o_.checkpoint, model_, optimizer_, settings_);
    report_.note("going on after step " + std::to_string(progress_.steps));
  }

  bool out_of_steps() const { return o_.max_steps > 0 && progress_.steps >= o_.max_steps; }

  // Whether it went to its end, or to the last step there is to take; else a signal came.
  bool epoch() {
    const auto start = Clock::now();
    memory::reset_peak(tracker_);
    if (progress_.batches == 0) {
      sampler_.begin_epoch();
      progress_.sampler_seed = sampler_.seed();
    } else {
      sampler_.continue_epoch(progress_.sampler_seed);
    }
    while (progress_.batches < sampler_.batches() && !out_of_steps()) {
      step();
      const bool stop = asked_to_stop();
      if (stop || (o_.checkpoint_every > 0 && progress_.steps % o_.checkpoint_every == 0)) save();
      if (stop) {
        report_.note("stopped by a signal after step " + std::to_string(progress_.steps) +
                     (o_.checkpoint.empty() ? "; no --checkpoint was given" : ""));
        return false;
      }
    }
    finish_epoch(std::chrono::duration<double>(Clock::now() - start).count());
    return true;
  }

  void finish_epoch(double seconds) {
    const bool complete = progress_.batches == sampler_.batches();
    EpochReport report{progress_.epochs + 1,
                       progress_,
                       complete,
                       o_.loss == Loss::CrossEntropy,
                       seconds,
                       memory::peak(tracker_),
                       resident_before_model_,
                       peak_resident_bytes(),
                       std::nullopt};
    if (evaluation_) report.evaluation = evaluate();
    if (complete) {
      progress_.epochs += 1;
      progress_.batches = progress_.rows = progress_.right = 0;
      progress_.loss_sum = 0;
    }
    save();
    report_.epoch(report);
  }

  void step() {
    const auto rows = sampler_.batch(progress_.batches);
    const Batch batch = source_.data.read(rows);
    at::Tensor loss;
    {
      const at::Tensor output = model_.forward(batch.images);
      source_.check(output);
      loss = compute(o_.loss, output, batch.labels);
      if (o_.loss == Loss::CrossEntropy) progress_.right += count_right(output, batch.labels);
    }
    loss.backward();
    optimizer_.step();  // nothing, if backward has done it
    progress_.batches += 1;
    progress_.steps += 1;
    progress_.rows += std::ssize(rows);
    const auto value = loss.item<double>();
    progress_.loss_sum += value * static_cast<double>(std::ssize(rows));
    if (o_.log_steps) report_.step(progress_.steps, value);
  }

  Evaluation evaluate() {
    const at::NoGradGuard no_grad;
    Sampler rows(evaluation_->data.rows(), o_.batch_size, false, false);
    rows.continue_epoch(0);  // draws nothing
    double loss_sum = 0;
    std::int64_t right = 0;
    for (std::int64_t number = 0; number < rows.batches(); ++number) {
      const Batch batch = evaluation_->data.read(rows.batch(number));
      const at::Tensor output = model_.infer(batch.images);
      evaluation_->check(output);
      loss_sum += compute(o_.loss, output, batch.labels).item<double>() *
                  static_cast<double>(std::ssize(rows.batch(number)));
      if (o_.loss == Loss::CrossEntropy) right += count_right(output, batch.labels);
    }
    const auto count = static_cast<double>(evaluation_->data.rows());
    Evaluation result{loss_sum / count, std::nullopt};
    if (o_.loss == Loss::CrossEntropy) result.accuracy = static_cast<double>(right) / count;
    return result;
  }

  void save() {
    if (o_.checkpoint.empty()) return;
    save_checkpoint(o_.checkpoint, model_, optimizer_, progress_, settings_);
  }

  const Options& o_;
  memory::TrackerId tracker_;
  Source source_;
  std::optional<Source> evaluation_;
  Sampler sampler_;
  json settings_;
  std::int64_t resident_before_model_;
  Model model_;
  Optimizer optimizer_;
  Report report_;
  Progress progress_;
};

}  // namespace

ExitCode train(const Options& options) {
  for (const std::string& library : options.libraries) {
    if (::dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) throw Error(::dlerror());
  }
  if (options.threads > 0) at::set_num_threads(options.threads);
  return Trainer(options).run();
}

}  // namespace fxpass::trainer
