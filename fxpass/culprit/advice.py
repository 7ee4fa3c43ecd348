"""What `verify` says of the op that makes a model differ."""

from __future__ import annotations

from collections.abc import Iterator

from fxpass.culprit.bisect import Culprit, Finding
from fxpass.runtime.module import CompiledModule


def explained(finding: Finding, compiled: CompiledModule) -> str:
    """The finding in words, and as code where there is a way out."""
    if not finding.by_rewriting:
        return (
            "no op is to blame: it differs with every op left as eager has it, so the graph itself"
            " is not what the model does"
        )
    if not finding.culprits:
        return "no op is to blame: compiled again, the model does not differ"
    lines = [line for culprit in finding.culprits for line in _culprit(culprit)]
    if not finding.dense:
        lines.append("no set of edges was found which, kept dense, make it equal to the original")
        return "\n".join(lines)
    lines.append("with this it equals the original:")
    if compiled._fxpass_given is None:
        lines.append("  compiled = fxpass.compile(model, inputs)  # inputs: a tuple")
        if any(":" in value for value in finding.dense):
            lines.append("  compiled(*inputs)  # compiles the parts")
    values = ", ".join(f'"{value}"' for value in finding.dense)
    lines.append(f"  compiled = fxpass.compile(model, plan=compiled.plan.with_dense({values}))")
    return "\n".join(lines)


def _culprit(culprit: Culprit) -> Iterator[str]:
    first, *others = [" + ".join(group.ops) for group in culprit.groups]
    shown = f", seen in the backward of {', '.join(others)}" if others else ""
    yield f"the first op that differs: {first}{shown}"
    edge = culprit.edge
    if edge is None:
        yield "  no single edge of it which, kept dense, makes it equal"
        return
    savers = f" saved by {', '.join(edge.savers)}," if edge.savers else ""
    yield f"  its edge: {edge.value}, computed by {edge.op},{savers} kept as {edge.recipe}"
