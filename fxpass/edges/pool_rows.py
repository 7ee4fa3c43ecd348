"""The pools: none reads the elements of its input in backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fxpass.edges.op import Op, spatial

_MAX_POOL = {
    "input": None,
    "kernel_size": None,
    "stride": None,
    "padding": 0,
    "dilation": 1,
    "ceil_mode": False,
    "return_indices": False,
}
_AVG_POOL = {
    "input": None,
    "kernel_size": None,
    "stride": None,
    "padding": 0,
    "ceil_mode": False,
    "count_include_pad": True,
    "divisor_override": None,
}
_ADAPTIVE = {"input": None, "output_size": None}


ROWS: tuple[Op, ...] = (
    *(
        Op(
            f"max_pool{n}d",
            _MAX_POOL,
            (module,),
            (function, getattr(F, f"max_pool{n}d_with_indices"), getattr(torch, f"max_pool{n}d")),
            saves_input=True,
            keeps_zeros=True,
            reads_saved=False,
            cheap=True,
        )
        for n, module, function in spatial("max_pool", "MaxPool")
    ),
    *(
        Op(
            f"avg_pool{n}d",
            _AVG_POOL,
            (module,),
            (function,),
            saves_input=True,
            reads_saved=False,
            cheap=True,
        )
        for n, module, function in spatial("avg_pool", "AvgPool")
    ),
    *(
        Op(
            f"adaptive_avg_pool{n}d",
            _ADAPTIVE,
            (module,),
            (function,),
            saves_input=True,
            reads_saved=False,
        )
        for n, module, function in spatial("adaptive_avg_pool", "AdaptiveAvgPool")
    ),
    *(
        Op(
            f"adaptive_max_pool{n}d",
            {**_ADAPTIVE, "return_indices": False},
            (module,),
            (function, getattr(F, f"adaptive_max_pool{n}d_with_indices")),
            saves_input=True,
            keeps_zeros=True,
            reads_saved=False,
        )
        for n, module, function in spatial("adaptive_max_pool", "AdaptiveMaxPool")
    ),
)
