"""Forwards that a trace would lose something of, each with a word of the reason to be given."""

import copy
import datetime
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

X = torch.linspace(-1, 1, 12).view(3, 4)
MEAN = torch.ones(4)
COUNTS = []
FLAG = 0


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 3


class Lossless(nn.Module):
    def forward(self, x):
        return x + 1


class Maybe(nn.Module):
    """Has no believable trace, and sometimes gives nothing."""

    def forward(self, x):
        return x if x.sum() > 0 else None


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.bn = nn.BatchNorm1d(4)
        self.register_buffer("seen", torch.zeros(()))
        self.scale = torch.ones(4)
        self.counter = 0
        self.history = [1]
        self.options = {"deep": {"k": []}}
        self.maybe = Maybe()
        self.plain = [nn.Linear(4, 4)]
        self.meter = type("Meter", (), {})()
        self.meter.count = 0


def no_grad(self, x):
    with torch.no_grad():
        y = self.fc(x)
    return x + y


def no_grad_decorated(self, x):
    return torch.no_grad()(lambda: self.fc(x))()


def enable_grad(self, x):
    with torch.enable_grad():
        return self.fc(x)


def set_grad_enabled(self, x):
    torch.set_grad_enabled(False)
    return self.fc(x)


def set_grad_in_c(self, x):
    torch._C._set_grad_enabled(False)
    return self.fc(x)


def inference_mode(self, x):
    with torch.inference_mode():
        return self.fc(x)


def autocast(self, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return self.fc(x)


def saved_hooks(self, x):
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        return self.fc(x)


def save_on_cpu(self, x):
    with torch.autograd.graph.save_on_cpu():
        return self.fc(x)


def checkpointed(self, x):
    return checkpoint(self.fc, x, use_reentrant=False)


def custom_function(self, x):
    return Double.apply(self.fc(x))


def torch_random(self, x):
    return x + torch.randn(4)


def zeros_constant(self, x):
    return x + torch.zeros(4)


def new_parameter(self, x):
    return x + nn.Parameter(torch.ones(4))


def global_tensor(self, x):
    return x - MEAN


def python_random(self, x):
    return x * 2 if random.random() > 0.5 else x * 3


def python_randint(self, x):
    return x * random.randint(1, 5)


def numpy_random(self, x):
    return x * float(np.random.rand())


def numpy_generator(self, x):
    return x * float(np.random.default_rng().random())


def reads_grad_mode(self, x):
    return x * 2 if torch.is_grad_enabled() else x


def reads_autocast(self, x):
    return x * 2 if torch.is_autocast_enabled() else x


def reads_dtype(self, x):
    return x.to(torch.get_default_dtype())


def reads_time(self, x):
    return x * time.time()


def reads_date(self, x):
    return x * datetime.datetime.now().second


def prints(self, x):
    print("x", end="")
    return x


def seeds(self, x):
    torch.manual_seed(1)
    return F.dropout(x)


def counts(self, x):
    self.counter += 1
    return x


def keeps(self, x):
    self.last = x
    return x


def appends(self, x):
    self.history.append(x)
    return x


def sets_item(self, x):
    self.options["deep"]["k"].append(3)
    return x


def changes_object(self, x):
    self.meter.count += 1
    return x


def bypasses_setattr(self, x):
    self.__dict__["counter"] = 5
    return x


def changes_class(self, x):
    type(self).calls = getattr(type(self), "calls", 0) + 1
    return x


def changes_global(self, x):
    global FLAG
    FLAG += 1
    return x


def appends_to_global(self, x):
    COUNTS.append(1)
    return x


def rebinds_buffer(self, x):
    self.seen = self.seen * 0.9 + x.mean()
    return x


def updates_attribute_tensor(self, x):
    self.scale.add_(1)
    return x * self.scale


def reads_attribute_shape(self, x):
    return x * self.scale.shape[0]


def branches(self, x):
    return x if x.sum() > 0 else -x


def loops(self, x):
    return sum(row for row in x)


def converts(self, x):
    return x * int(x.sum())


def measures(self, x):
    return x * len(x)


def ranges(self, x):
    return [x[i] for i in range(x.shape[0])]


def sets_attribute_of_tensor(self, x):
    x.flag = True
    return x


def asks_attribute_of_tensor(self, x):
    return x if hasattr(x, "mask") else -x


def asks_gradient_function(self, x):
    return x if x.grad_fn is None else -x


def asks_type(self, x):
    return x if type(x) is torch.Tensor else -x


def asks_identity(self, x):
    y = x.view_as(x)
    return x if x is y else -x


def asks_tracing(self, x):
    return x if torch.fx._symbolic_trace.is_fx_tracing() else -x


def asserts_two_things(self, x):
    assert x.shape[0] == 3 and x.shape[1] == 4  # noqa: PT018
    return x


def formats(self, x):
    return x * len({f"{x.shape[0]}": 1})


def asserts_by_torch(self, x):
    """Not a loss, but for the message."""
    torch._assert(x.shape[1] == 3, f"got {x.shape}")
    return x


def asserts_one_thing(self, x):
    """Not a loss; here because pytest rewrites the assertions of a test file."""
    assert x.shape[1] == 3, f"got {x.shape}"
    return x


def copies(self, x):
    return copy.deepcopy(x) + x


def swallows(self, x):
    try:
        return x * len(x)
    except Exception:
        return x


def swallows_all(self, x):
    try:
        return x * len(x)
    except:  # noqa: E722
        return x


def unregistered(self, x):
    return self.plain[0](x)


def numpy_math(self, x):
    return x + np.sqrt(x)


def converts_to_numpy(self, x):
    return torch.from_numpy(x.detach().numpy())


LOSSES = [
    (no_grad, "no_grad"),
    (no_grad_decorated, "no_grad"),
    (enable_grad, "enable_grad"),
    (set_grad_enabled, "set_grad_enabled"),
    (set_grad_in_c, "grad mode"),
    (inference_mode, "inference_mode"),
    (autocast, "autocast"),
    (saved_hooks, "saved_tensors_hooks"),
    (save_on_cpu, "saved_tensors_hooks"),
    (checkpointed, "checkpoint"),
    (custom_function, "autograd.Function"),
    (torch_random, "randn"),
    (zeros_constant, "zeros"),
    (new_parameter, "ones"),
    (global_tensor, "outside of the modules"),
    (python_random, "random numbers"),
    (python_randint, "random numbers"),
    (numpy_random, "numpy's random"),
    (numpy_generator, "numpy's random"),
    (reads_grad_mode, "is_grad_enabled"),
    (reads_autocast, "is_autocast_enabled"),
    (reads_dtype, "get_default_dtype"),
    (reads_time, "time.time"),
    (reads_date, "clock"),
    (prints, "print"),
    (seeds, "seeds"),
    (counts, "'counter'"),
    (keeps, "'last'"),
    (appends, "'history'"),
    (sets_item, "'k'"),
    (changes_object, "'count'"),
    (bypasses_setattr, "'counter'"),
    (changes_class, "type()|class"),
    (changes_global, "'FLAG'"),
    (appends_to_global, "'COUNTS'"),
    (rebinds_buffer, "'seen'"),
    (updates_attribute_tensor, "add_"),
    (reads_attribute_shape, "shape"),
    (branches, "known only at run time"),
    (loops, "iterates"),
    (converts, "int of a value"),
    (measures, "len of a value"),
    (ranges, "cannot be traced"),
    (sets_attribute_of_tensor, "'flag'"),
    (asks_attribute_of_tensor, "'mask'"),
    (asks_gradient_function, "'grad_fn'"),
    (asks_type, r"type\(\)"),
    (formats, "into a string"),
    (asks_identity, "same object"),
    (asks_tracing, "traced"),
    (asserts_two_things, "known only at run time"),
    (copies, "copies"),
    (swallows, "len of a value"),
    (swallows_all, "len of a value"),
    (unregistered, "not among its submodules"),
    (numpy_math, "numpy"),
    (converts_to_numpy, "from_numpy|cannot be traced"),
]


def module_with(forward):
    torch.manual_seed(0)
    return type("Part", (Base,), {"forward": forward})()
