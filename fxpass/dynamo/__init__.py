"""`torch.compile(model, backend="fxpass")`: the passes on the graphs that TorchDynamo captures.

Dynamo finds this package by the entry point `torch_dynamo_backends` in pyproject.toml.
"""

from fxpass.dynamo.backend import backend

__all__ = ["backend"]
