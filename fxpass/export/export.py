"""`fxpass.export_torchscript`: collect the graphs, write them in a format."""

from __future__ import annotations

import os

from fxpass._progress import progress
from fxpass.export.collect import collect
from fxpass.export.torchscript import write
from fxpass.runtime.module import CompiledModule


def export_torchscript(compiled: CompiledModule, path: str | os.PathLike[str]) -> None:
    """Writes a compiled model to a file that trains without Python, to the same bits.

    The file is a TorchScript archive: `torch.jit.load(path)` reads it once `import fxpass` has
    loaded the operators, `torch::jit::load(path)` in C++ once `libfxpass_ops.so` is. What is
    loaded has the parameters and buffers of the model under the same names, each once, and

    - `forward(*tensors)`: the rewritten graph, in training or evaluation mode as `train()` and
      `eval()` say; gradients flow in both;
    - `infer(*tensors)`: the model's own graph in evaluation mode, without gradients.

    Its extra file `fxpass.json` says what was exported: the versions of fxpass, torch and the
    operators ("op_version"), the model's class, its inputs (name, and shape and dtype if they are
    known from `example_inputs` or the first call; the batch may be of any size all the same), and
    the plan.

    Arguments that are no tensors are written down as they were in the example or the first call. So
    are the modules' training flags for training mode, if the model is in it (a frozen batch norm
    stays frozen). A dict that the model returns is a plain dict in the order of its keys; where the
    results in training and in evaluation differ in type, `forward` is declared to return `Any`.

    Args:
        compiled: what `fxpass.compile` returned; it need not have been called.
        path: the file, replaced whole or not at all.

    Raises:
        TypeError: `compiled` is no compiled module.
        ExportError: something in it cannot be exported; the message names it.
        OSError: the file cannot be written.

    """
    if not isinstance(compiled, CompiledModule):
        raise TypeError(
            "fxpass.export_torchscript: expected what fxpass.compile returned, got "
            f"{type(compiled).__module__}.{type(compiled).__qualname__};"
            " call export_torchscript(fxpass.compile(model), path)"
        )
    try:
        path = os.fspath(path)
    except TypeError:
        raise TypeError(
            f"fxpass.export_torchscript: expected path to be a path, got {type(path).__name__}"
        ) from None
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise FileNotFoundError(
            f"fxpass.export_torchscript: no directory {os.path.dirname(path)!r} to write to"
        )
    with progress(2) as begin:
        begin("tracing")
        trainable = collect(compiled)
        begin("scripting")
        write(trainable, path)
