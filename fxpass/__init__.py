"""Train the same PyTorch model, to the same bits, in a fraction of the activation memory."""

from fxpass import _library as _library
from fxpass import bitmap, memory, optim, paging
from fxpass._library import cmake_prefix_path
from fxpass.chain import checkpoint_chain
from fxpass.compile import compile, plan
from fxpass.errors import BudgetError, ExportError, FxpassError, MismatchError, TraceError
from fxpass.export import export_torchscript, save_dataset
from fxpass.inspect import Profile, SavedTensor, Timeline, profile
from fxpass.plan import Plan
from fxpass.verify import verify

__all__ = [
    "BudgetError",
    "ExportError",
    "FxpassError",
    "MismatchError",
    "Plan",
    "Profile",
    "SavedTensor",
    "Timeline",
    "TraceError",
    "bitmap",
    "checkpoint_chain",
    "cmake_prefix_path",
    "compile",
    "export_torchscript",
    "memory",
    "optim",
    "paging",
    "plan",
    "profile",
    "save_dataset",
    "verify",
]
