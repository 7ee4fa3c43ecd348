"""A norm's module, called as the function of torch.nn.functional that it calls itself."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def call_norm(n: Any, x: Tensor) -> Tensor:
    """Layer, group, instance or batch norm of `x` with the module's parameters and arguments."""
    if isinstance(n, nn.LayerNorm):
        return F.layer_norm(x, n.normalized_shape, n.weight, n.bias, n.eps)
    if isinstance(n, nn.GroupNorm):
        return F.group_norm(x, n.num_groups, n.weight, n.bias, n.eps)
    of_batch = n.training or n.running_mean is None
    function = F.instance_norm if isinstance(n, INSTANCE_NORMS) else F.batch_norm
    statistics = n.running_mean, n.running_var
    return function(x, *statistics, n.weight, n.bias, of_batch, n.momentum or 0.2, n.eps)
