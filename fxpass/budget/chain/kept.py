"""A schedule of a model's blocks -> what is kept in forward, and whom each restoration serves.

What the schedule keeps in its first sweep is kept in forward: states, and of a block with its tape
what the free plan keeps there. All else is restored in backward, when it is first asked for, from
what it is made of; so a later `Forward(first, end)` happens by itself when the input of `end` is
asked for. On that way each value serves the readers within its block and is let go, so often as
the schedule runs the block forward; after that, when its tape is held or it is kept as a state, it
is held for all the readers that are left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from torch.fx import Node

from fxpass.budget.chain.blocks import Block
from fxpass.plan import Kept, Mask, Values, is_view
from fxpass.schedule import Backward, Forward, Keep, Schedule, Tape


def kept_by(values: Values, blocks: Sequence[Block], schedule: Schedule, free: Kept) -> Kept:
    """What is kept if `blocks` run by `schedule`; `free`: what the free plan keeps."""
    ends = next(i for i, action in enumerate(schedule) if isinstance(action, Backward))
    sweep, rest = schedule[:ends], schedule[ends:]
    tapes = {action.stage for action in sweep if isinstance(action, Tape)}
    taped = {node for stage in tapes for node in blocks[stage].nodes}
    taped |= set(values.nodes[: values.nodes.index(blocks[0].entry) + 1])
    # A tape holds the input of its block.
    held = tapes | {action.stage for action in sweep if isinstance(action, Keep)}
    states = {_state(values, blocks[stage].entry) for stage in held}
    kept = (free.values & taped) | {node for node in states if node in values.sources}
    masked = free.masked & taped
    kept |= _not_to_be_made(values, kept, masked)
    return Kept(kept, masked, _serves(values, blocks, rest, kept, masked))


def _state(values: Values, entry: Node) -> Node:
    """What is kept for the input of a block: of a norm and its activation, one op, its input."""
    while entry in values.with_norm:
        entry = values.sources[entry][0]
    return entry


def _wanted(values: Values, masked: set[Node]) -> set[Node]:
    return values.needed | (set(values.masks.values()) - masked)


def _not_to_be_made(values: Values, kept: set[Node], masked: set[Node]) -> set[Node]:
    """The values that backward needs, or that others are made of, and nothing makes again."""
    todo, seen = list(_wanted(values, masked)), set()
    found = set()
    while todo:
        node = todo.pop()
        if node in seen or node in kept:
            continue
        seen.add(node)
        if node in values.sources:
            todo += values.sources[node]
        elif node.op not in ("placeholder", "get_attr"):
            found.add(node)
    return found


def _serves(
    values: Values, blocks: Sequence[Block], rest: Schedule, kept: set[Node], masked: set[Node]
) -> dict[Node, tuple[int, ...]]:
    """Of each value that is restored more than once: for how many readers each time."""
    passes = _passes(blocks, rest)
    made_of = _made_of(values, kept, masked)
    fetches: Counter[Node] = Counter()
    readers: Counter[Node] = Counter()
    on_the_way = _readers_on_the_way(blocks, made_of)
    found: dict[Node, tuple[int, ...]] = {}
    for node in reversed(values.nodes):
        if node not in made_of:
            continue
        savers = _savers(values, node, masked)
        total, each = fetches[node] + savers, on_the_way[node]
        times = min(passes[node], total // each) if each else 0
        left = total - times * each
        # Without a word each reader is served once, and some may come again.
        if times or total > readers[node] + savers:
            found[node] = (*(each,) * times, *((left,) if left else ()))
        for source in made_of[node]:
            fetches[source] += times + bool(left)
            readers[source] += 1
    return found


def _passes(blocks: Sequence[Block], rest: Schedule) -> Counter[Node]:
    """How often each value is restored only for what comes behind it in a forward pass."""
    found: Counter[Node] = Counter()
    for action in rest:
        if not isinstance(action, Forward):
            continue
        for stage in range(action.first, action.end):
            is_last = stage == action.end - 1
            for node in blocks[stage].nodes:
                # What the last one returns is what the pass was for, and stays.
                found[node] += not (is_last and node is blocks[action.end].entry)
    return found


def _made_of(values: Values, kept: set[Node], masked: set[Node]) -> dict[Node, list[Node]]:
    """What each restored value is made of; a view counts as the value it lies in."""

    def base(node: Node) -> Node:
        call = values.edges.calls.get(node)
        while is_view(call) and call is not None and node in values.sources:
            node = values.sources[node][0]
            call = values.edges.calls.get(node)
        return node

    todo, found = [base(node) for node in _wanted(values, masked)], {}
    while todo:
        node = todo.pop()
        if node not in found and node not in kept and node in values.sources:
            found[node] = [base(source) for source in values.sources[node]]
            todo += found[node]
    return found


def _readers_on_the_way(blocks: Sequence[Block], made_of: dict[Node, list[Node]]) -> Counter[Node]:
    """Of each value: how many others in its block, and on the way to the next one, are made of it.

    The entry of a block is read within that block.
    """
    found: Counter[Node] = Counter()
    for block, after in pairwise(blocks):
        todo, seen = [after.entry], set()
        while todo:
            node = todo.pop()
            if node in seen or node not in made_of or node is block.entry:
                continue
            seen.add(node)
            found.update(made_of[node])
            todo += made_of[node]
    return found


def _savers(values: Values, node: Node, masked: set[Node]) -> int:
    """How many ops fetch the value in their backward: a ReLU has bits of its own for that."""
    readers = 0
    for call in values.edges.savers(node):
        of_itself = call.node is node and call.op.name == "relu"
        by_mask = Mask(call.node) in values.masks and values.masks[Mask(call.node)] in masked
        readers += not (of_itself or by_mask)
    return readers
