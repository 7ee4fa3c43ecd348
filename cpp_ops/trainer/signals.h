// SIGTERM and SIGINT ask the program to stop after the present step. A second one ends it at once.
#pragma once

namespace fxpass::trainer {

void watch_signals();
bool asked_to_stop();

}  // namespace fxpass::trainer
