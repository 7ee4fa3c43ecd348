"""The judge of exactness: two callables, one initial state, a few optimizer steps, every bit.

`record()` runs a training loop and notes every tensor the promise speaks of: outputs, loss, the
gradients of inputs and parameters, buffers, RNG state, inputs (a model may change them in place)
and the parameters after the step. `compare()` lists everything in which two recordings differ.

Tensors are compared as integers of their width, so NaN payloads, -0.0 and subnormals count, with
their dtype, shape, strides, layout and whether they require a gradient. A tensor of more than
`KEEP_BYTES` is remembered by its digest; `record(..., keep=...)` names those wanted whole.

The state is snapshot and restored in place (see `fxpass._preserved`), not deep-copied: a compiled
module shares its parameters with the original, and some modules cannot be copied.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fxpass._preserved import preserved

KEEP_BYTES = 1 << 20
_INTEGER_OF_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PLAIN = (bool, int, float, str, type(None))

LossFn = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Key:
    """What a recorded value is: `step` 0, 1, ..., its kind, and its name within the kind."""

    step: int
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip() + f" (step {self.step + 1})"


@dataclass(frozen=True)
class Value:
    """One tensor as recorded. `bits` is the tensor as integers, None if only a digest is kept."""

    facts: tuple[tuple[str, Any], ...]
    digest: bytes
    bits: Tensor | None = None


@dataclass
class Recording:
    """All that one run did. `error` is what stopped it, None if nothing did."""

    values: dict[Key, Value | str] = field(default_factory=dict)
    error: BaseException | None = None
    where: str = ""


@dataclass(frozen=True)
class Difference:
    """One recorded value that differs, and how."""

    key: Key
    how: str

    def __str__(self) -> str:
        return f"{self.key}: {self.how}"


def sum_of_outputs(output: Any) -> Tensor:
    """The default loss: the sum of all floating outputs, in fp32 (in fp64 for fp64)."""
    leaves = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    floating = [leaf for leaf in leaves if leaf.is_floating_point() or leaf.is_complex()]
    if not floating:
        raise ValueError(
            "the model returned no floating tensor to make a loss of: give a loss_fn(output)"
        )
    terms = [leaf.abs() if leaf.is_complex() else leaf for leaf in floating]
    sums = [(term if term.dtype == torch.float64 else term.float()).sum() for term in terms]
    return sum(sums[1:], sums[0])


# ---- recording --------------------------------------------------------------------------------


def integers(tensor: Tensor) -> Tensor:
    """The tensor's bit patterns, as integers, with its strides; complex ones as pairs."""
    tensor = tensor.detach()
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.view(_INTEGER_OF_SIZE[tensor.element_size()])


def value_of(item: Any, keep: bool = False) -> Value | str:
    """Remembers a tensor; of anything else its type and, if it is a plain value, its repr."""
    if not isinstance(item, Tensor):
        return repr(item) if isinstance(item, _PLAIN) else type(item).__qualname__
    facts: dict[str, Any] = {"dtype": item.dtype, "shape": tuple(item.shape)}
    facts |= {"layout": item.layout, "requires_grad": item.requires_grad}
    if item.layout == torch.strided:
        facts["strides"] = item.stride()
    dense = item.detach() if item.layout == torch.strided else item.detach().to_dense()
    bits = integers(dense)
    data = bits.contiguous()
    array: Any = data.view(-1).numpy()
    digest = hashlib.blake2b(array, digest_size=16).digest()
    small = data.numel() * data.element_size() <= KEEP_BYTES
    return Value(tuple(facts.items()), digest, data.clone() if keep or small else None)


def _named(tree: Any) -> list[tuple[str, Any]]:
    leaves, _ = pytree.tree_flatten_with_path(tree)
    return [(pytree.keystr(path), leaf) for path, leaf in leaves]


def _fresh_leaves(inputs: tuple[Any, ...], grads: bool | None) -> tuple[Any, ...]:
    """The inputs as leaves of a new graph, on the same memory; one tensor stays one tensor."""
    made: dict[int, Tensor] = {}

    def leaf(item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        if id(item) not in made:
            wanted = item.requires_grad if grads is None else grads
            floating = item.is_floating_point() or item.is_complex()
            made[id(item)] = item.detach().requires_grad_(wanted and floating)
        return made[id(item)]

    return pytree.tree_map(leaf, inputs)


@dataclass(frozen=True)
class Loop:
    """The training loop both sides go through."""

    steps: int = 3
    loss_fn: LossFn = sum_of_outputs
    input_grads: bool | None = None  # None: as the inputs say
    learning_rate: float = 0.01
    around: Callable[[], AbstractContextManager[Any]] = nullcontext  # what each step runs in


_BITS_LEFT = itertools.cycle((0x3F9D3F9D, -1, 0x42004200, 0, -0x40AC40AC))


def _soil_free_memory() -> None:
    """Leaves other bits than last time in the small blocks that the allocator will hand out.

    A kernel that reads what nobody wrote (oneDNN's weight gradient of a depthwise convolution in
    bfloat16 does) then differs from itself, where in clean memory it may not.
    """
    sizes = [1 << k for k in range(2, 18) for _ in range(16 if k < 13 else 4)]
    bits = next(_BITS_LEFT)
    _ = [torch.full((size,), bits, dtype=torch.int32) for size in sizes]


def record(
    function: Callable[..., Any], inputs: tuple[Any, ...], loop: Loop, keep: Collection[Key] = ()
) -> Recording:
    """Runs the loop and records it; every state it touches is as found when it returns."""
    module = function if isinstance(function, nn.Module) else None
    recording = Recording()
    _soil_free_memory()
    with preserved(module, inputs):
        try:
            for step in range(loop.steps):
                with loop.around():
                    _one_step(function, module, inputs, loop, step, recording, keep)
        except Exception as error:
            recording.error = error
    return recording


def _one_step(
    function: Callable[..., Any],
    module: nn.Module | None,
    inputs: tuple[Any, ...],
    loop: Loop,
    step: int,
    recording: Recording,
    keep: Collection[Key],
) -> None:
    def note(kind: str, name: str, item: Any) -> None:
        key = Key(step, kind, name)
        recording.values[key] = value_of(item, keep=key in keep)

    parameters = dict(module.named_parameters()) if module is not None else {}
    for parameter in parameters.values():
        parameter.grad = None
    leaves = _fresh_leaves(inputs, loop.input_grads)

    recording.where = f"the forward of step {step + 1}"
    output = function(*leaves)
    for name, item in _named(output):
        note("output", name, item)

    recording.where = f"the loss of step {step + 1}"
    loss = loop.loss_fn(output)
    note("loss", "", loss)
    if loss.requires_grad:
        recording.where = f"the backward of step {step + 1}"
        # Gradients are listed in the order in which backward reached them.
        reached: list[Tensor] = []
        trained = _training(parameters)
        hooks = [p.register_post_accumulate_grad_hook(reached.append) for p in trained]
        try:
            loss.backward()
        finally:
            for hook in hooks:
                hook.remove()
        position = {id(parameter): i for i, parameter in enumerate(reached)}
        for name, p in sorted(parameters.items(), key=lambda it: position.get(id(it[1]), 1 << 60)):
            note("gradient", name, p.grad)
        for name, leaf in _named(leaves):
            if isinstance(leaf, Tensor):
                note("input gradient", name, leaf.grad)

    recording.where = f"the end of step {step + 1}"
    for name, buffer in module.named_buffers() if module is not None else ():
        note("buffer", name, buffer)
    note("RNG state", "", torch.get_rng_state())
    for name, leaf in _named(leaves):
        if isinstance(leaf, Tensor):
            note("input afterwards", name, leaf)
    if trained := _training(parameters):
        torch.optim.SGD(trained, lr=loop.learning_rate).step()
    for name, p in parameters.items():
        note("parameter", name, p)


def _training(parameters: dict[str, nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters.values() if parameter.requires_grad]


# ---- comparing --------------------------------------------------------------------------------


def compare(expected: Recording, found: Recording) -> list[Difference]:
    """Everything in which the recordings differ, in the order in which `expected` recorded it."""
    differences = [
        Difference(key, how)
        for key in itertools.chain(
            expected.values, (key for key in found.values if key not in expected.values)
        )
        if (how := _how(expected.values.get(key), found.values.get(key)))
    ]
    if type(expected.error) is not type(found.error):
        step = len({key.step for key in expected.values})
        raised = f"{_raised(expected)}, then {_raised(found)}"
        differences.append(Difference(Key(max(step - 1, 0), "error", ""), raised))
    return differences


def _raised(recording: Recording) -> str:
    if recording.error is None:
        return "raised nothing"
    return f"raised {type(recording.error).__name__} in {recording.where}: {recording.error}"


def _how(expected: Value | str | None, found: Value | str | None) -> str:
    """How the two differ; empty if they do not."""
    if expected is None or found is None:
        return "was not there" if expected is None else "is not there"
    if isinstance(expected, str) or isinstance(found, str):
        if expected == found:
            return ""
        return " against ".join(v if isinstance(v, str) else "a tensor" for v in (expected, found))
    parts = [
        f"{name} {a} against {b}"
        for (name, a), (_, b) in zip(expected.facts, found.facts, strict=False)
        if a != b
    ]
    same_form = all(dict(expected.facts)[k] == dict(found.facts).get(k) for k in ("dtype", "shape"))
    if same_form and expected.digest != found.digest:
        parts.append(_element_differences(expected.bits, found.bits))
    return "; ".join(parts)


def _element_differences(expected: Tensor | None, found: Tensor | None) -> str:
    if expected is None or found is None:
        return "its bytes differ"
    differs = expected != found
    first = tuple(differs.nonzero()[0].tolist())
    a, b = (_hexadecimal(bits[first]) for bits in (expected, found))
    count = f"{int(differs.sum())} of {differs.numel()} elements differ"
    return f"{count}, at {list(first)} {a} against {b}"


def _hexadecimal(bits: Tensor) -> str:
    width = bits.element_size() * 8
    return f"0x{int(bits) % (1 << width):0{width // 4}x}"
