"""A trace run as generated code on the module itself, beside the module."""

import copy
import dataclasses

import torch
from torch import nn

from fxpass.capture import ArgPattern, capture

X = torch.linspace(-1, 1, 24).view(2, 3, 4)


def generated(graph):
    code = graph.python_code("self")
    namespace = dict(code.globals)
    exec(code.src, namespace)
    return namespace["forward"]


def bits(value):
    """A nested structure with every tensor as bytes, and its gradient function's name."""
    if isinstance(value, torch.Tensor):
        name = value.grad_fn.name() if value.grad_fn is not None else None
        return (
            value.dtype,
            value.stride(),
            value.detach().reshape(-1).view(torch.uint8).tolist(),
            name,
        )
    if isinstance(value, dict):
        return (type(value), [(k, bits(v)) for k, v in value.items()])
    if isinstance(value, (list, tuple)):
        return (type(value), [bits(v) for v in value])
    if dataclasses.is_dataclass(value):
        return (type(value), bits(vars(value)))
    return (float if isinstance(value, float) else type(value), value)


def check(module, *args, **kwargs):
    """Runs eager and traced from one state, twice; returns the capture."""
    found = capture(module, ArgPattern.of(args, kwargs))
    run, results = generated(found.graph), []
    assert found.guards.holds()
    for traced in (False, True):
        torch.manual_seed(3)
        one, given = copy.deepcopy(module), copy.deepcopy((args, kwargs))
        outputs = []
        for _ in range(2):
            if traced:
                outputs.append(bits(run(one, *found.pattern.flatten(*given))))
            else:
                outputs.append(bits(one(*given[0], **given[1])))
        results.append((outputs, bits(given), bits(dict(one.state_dict())), torch.rand(1).item()))
    assert results[0] == results[1]
    return found


def targets(found, op):
    return [n.target for n in found.graph.nodes if n.op == op]


def make(forward, **members):
    module = type("Made", (nn.Module,), {"forward": forward})()
    for name, value in members.items():
        setattr(module, name, value)
    return module
