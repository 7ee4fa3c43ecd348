#include "trainer/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <sstream>

#include "trainer/error.h"

namespace fxpass::trainer {
namespace {

// A number from `low` up to and without `below`.
CLI::Validator number(double low, double below = std::numeric_limits<double>::infinity()) {
  return CLI::Validator(
      [=](const std::string& text) -> std::string {
        double value = 0;
        if (CLI::detail::lexical_cast(text, value) && value >= low && value < below) return {};
        std::ostringstream message;
        message << "expected a number >= " << low;
        if (std::isfinite(below)) message << " and < " << below;
        message << ", got " << text;
        return message.str();
      },
      "");
}

CLI::Validator one_of(const std::vector<std::string>& words) {
  return CLI::Validator(
      [=](const std::string& text) -> std::string {
        if (std::find(words.begin(), words.end(), text) != words.end()) return {};
        return "expected " + CLI::detail::join(words, " or ") + ", got " + text;
      },
      "");
}

void add_files(CLI::App& app, Options& o) {
  app.add_option("--model", o.model, "what fxpass.export_torchscript has written")->required();
  app.add_option("--data", o.data, "what fxpass.save_dataset has written")->required();
  app.add_option("--eval-data", o.eval_data, "another one: its loss after every epoch");
  app.add_option("--output", o.output, "where to write the trained model, an archive as --model");
  app.add_option("--library", o.libraries, "a library with more operators, to load first")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option(
      "--page-dir", o.page_dir,
      "where a model that pages does so, in place of the directory it was exported with");
}

void add_training(CLI::App& app, Options& o) {
  app.add_option_function<std::string>(
         "--loss",
         [&o](const std::string& name) {
           o.loss = name == "mse" ? Loss::MeanSquares : Loss::CrossEntropy;
         },
         "cross-entropy [the default] or mse")
      ->check(one_of({"cross-entropy", "mse"}));
  app.add_option("--optimizer", o.optimizer, "sgd, adam or adamw")
      ->check(one_of({"sgd", "adam", "adamw"}))
      ->capture_default_str();
  app.add_option("--lr", o.lr, "learning rate [0.001]")->check(number(0));
  app.add_option("--weight-decay", o.weight_decay, "[0, adamw: 0.01]")->check(number(0));
  app.add_option("--momentum", o.momentum, "of sgd")->check(number(0))->capture_default_str();
  app.add_option("--dampening", o.dampening, "of sgd")->capture_default_str();
  app.add_flag("--nesterov", o.nesterov, "of sgd");
  app.add_option("--beta1", o.beta1, "of adam")->check(number(0, 1))->capture_default_str();
  app.add_option("--beta2", o.beta2, "of adam")->check(number(0, 1))->capture_default_str();
  app.add_option("--eps", o.eps, "of adam")->check(number(0))->capture_default_str();
  app.add_option("--epochs", o.epochs)->check(number(1))->capture_default_str();
  app.add_option("--max-steps", o.max_steps, "stop after so many steps")->check(number(1));
  app.add_option("--batch-size", o.batch_size)->check(number(1))->capture_default_str();
  app.add_option("--seed", o.seed, "as torch.manual_seed")->capture_default_str();
  app.add_option("--threads", o.threads, "as torch.set_num_threads")->check(number(1));
  app.add_flag("--no-shuffle", o.no_shuffle, "take the rows as they come");
  app.add_flag("--drop-last", o.drop_last, "leave out the last batch where it is smaller");
  app.add_flag("--step-after-backward", o.step_after_backward,
               "update the parameters after backward, not within it: the same bits, more memory");
  app.add_flag("--keep-freed-memory", o.keep_freed_memory,
               "do not give freed memory back to the system at once: faster, more memory");
}

void add_checkpoints(CLI::App& app, Options& o) {
  auto* path = app.add_option("--checkpoint", o.checkpoint,
                              "where to save all it takes to go on, after every epoch");
  app.add_option("--checkpoint-every", o.checkpoint_every, "and after so many steps")
      ->check(number(1))
      ->needs(path);
  app.add_flag("--resume", o.resume, "go on from the checkpoint, if there is one")->needs(path);
}

// Exits with a message where what was given does not go together.
void check(const CLI::App& app, const Options& o) {
  const auto given = [&](const char* name) { return app.count(name) > 0; };
  const bool sgd = o.optimizer == "sgd";
  for (const char* name : {"--momentum", "--dampening", "--nesterov"}) {
    if (!sgd && given(name)) throw CLI::ValidationError(name, "is for --optimizer sgd");
  }
  for (const char* name : {"--beta1", "--beta2", "--eps"}) {
    if (sgd && given(name)) throw CLI::ValidationError(name, "is for --optimizer adam and adamw");
  }
  if (o.nesterov && (o.momentum <= 0 || o.dampening != 0)) {
    throw CLI::ValidationError("--nesterov", "needs a --momentum above 0 and no --dampening");
  }
}

}  // namespace

Options parse(int argc, char** argv) {
  Options o;
  CLI::App app("Trains a model that fxpass has exported, to the bits that Python would compute.",
               "fxpass-train");
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.set_version_flag("--version", FXPASS_VERSION);
  add_files(app, o);
  add_training(app, o);
  add_checkpoints(app, o);
  app.add_flag("--json", o.json, "print one JSON object a line");
  app.add_flag("--log-steps", o.log_steps, "print the loss of every step");
  app.footer(
      "Exit codes: 0 done; 1 failed, stderr says why; 2 wrong arguments; 3 stopped by "
      "SIGTERM or SIGINT\nafter a whole step, --checkpoint written if given.");
  try {
    app.parse(argc, argv);
    check(app, o);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error) == 0 ? kDone : kUsage);
  }
  return o;
}

}  // namespace fxpass::trainer
