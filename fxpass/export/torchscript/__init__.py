"""Everything that knows TorchScript, which its makers have deprecated.

Each graph becomes a method of one module that is scripted (source.py, holder.py, script.py). Then
every ATen operator on tensors is replaced by its twin fxpass::aten_... (opaque.py), because
TorchScript's executor would differentiate, merge and rewrite those that it knows. archive.py does
it all and writes the file.

Another format needs another package with a `write`.
"""

from fxpass.export.torchscript.archive import write

__all__ = ["write"]
