"""A compiled model as a file that trains without Python; see collect.py for what is written."""

from fxpass.export.dataset import save_dataset
from fxpass.export.export import export_torchscript

__all__ = ["export_torchscript", "save_dataset"]
