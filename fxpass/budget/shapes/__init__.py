"""What a step takes, told from shapes alone: no op is run, no memory is needed.

A second producer of a `Survey`. The first measures each op on real tensors; this one knows, for
the ops of convolutional networks, what each allocates. The model and its inputs may be fake tensors
(`torch._subclasses.FakeTensorMode`).
"""

from fxpass.budget.shapes.planner import ShapePlanner
from fxpass.budget.shapes.variants import forward_only

__all__ = ["ShapePlanner", "forward_only"]
