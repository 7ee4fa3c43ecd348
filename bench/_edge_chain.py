"""A ResNet as a chain of blocks, its bytes told from shapes, and the peak of schedules for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fxpass.budget.judge import judge as judge_graph
from fxpass.budget.shapes import ShapePlanner, forward_only
from fxpass.budget.survey import key_of
from fxpass.schedule import Backward, Chain, Forward, Schedule, Stage, Tape, judge
from fxpass.schedule.chain import total_seconds


@dataclass(frozen=True)
class BlockChain:
    """The chain, and the bytes of the gradients of each stage's parameters."""

    chain: Chain
    gradients: tuple[int, ...]

    def peak_bytes(self, schedule: Schedule) -> int:
        """The most bytes live, the chain's first input and the parameters' gradients among them.

        A stage's own gradients are part of what its backward takes; they stay when that has ended.
        """
        ended, seconds, stages = [], 0.0, self.chain.stages
        for action in schedule:
            match action:
                case Forward(first, end):
                    for stage in stages[first:end]:
                        seconds += stage.forward_seconds
                case Tape(place):
                    seconds += stages[place].forward_seconds
                case Backward(place):
                    seconds += stages[place].backward_seconds
                    ended.append((seconds, self.gradients[place]))
        peak = held = 0
        for at, n_bytes in judge(self.chain, schedule).timeline:
            while ended and ended[0][0] <= at:
                held += ended.pop(0)[1]
            peak = max(peak, n_bytes + held)
        return peak

    def rho(self, schedule: Schedule) -> float:
        """The time of a step over that of one without recomputation."""
        return judge(self.chain, schedule).seconds / total_seconds(self.chain.stages)


def blocks_of(model: Any) -> list[nn.Module]:
    """Of a ResNet of torchvision: the stem, each residual block, the head."""
    stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
    layers = (model.layer1, model.layer2, model.layer3, model.layer4)
    head = nn.Sequential(model.avgpool, nn.Flatten(), model.fc)
    return [stem, *(block for layer in layers for block in layer), head]


def block_chain(model: nn.Module, images: Tensor) -> BlockChain:
    """The chain of a ResNet whose parameters, like the images, may be fake."""
    known: dict[tuple[str, Any], tuple[Stage, Tensor]] = {}
    stages, gradients, state = [], [], images
    for block in blocks_of(model):
        form = repr(block), state.shape
        if form not in known:
            known[form] = _stage(block, state)
        stage, state = known[form]
        stages.append(stage)
        gradients.append(sum(p.nbytes for p in block.parameters()))
    return BlockChain(Chain(tuple(stages), state.nbytes), tuple(gradients))


def _stage(block: nn.Module, state: Tensor) -> tuple[Stage, Tensor]:
    """A stage, and what it returns."""
    # With an operation in front, to which the readers of the block's input hand their gradients.
    module = nn.Sequential(nn.Identity(), block)
    planner = ShapePlanner(module, (state,))
    survey, graph = planner.survey, planner.graph
    with_tape = planner.eager
    without = judge_graph(module, graph, forward_only(survey))
    last = graph.output_node().all_input_nodes[0]
    result = planner.value(last.name)
    forward = max(p for at, p in with_tape.peaks.items() if not at.endswith(" backward"))
    # The gradient of a result that was written in place is nobody's own there.
    unseen = 0 if survey.costs[key_of(last)].out_bytes else result.nbytes
    backward = max(
        peak + (unseen if at == f"{last.name} backward" else 0)
        for at, peak in with_tape.peaks.items()
        if at.endswith(" backward")
    )
    tape = with_tape.saved_bytes
    around = tape + result.nbytes + (state.nbytes if state.requires_grad else 0)
    stage = Stage(
        forward_seconds=without.seconds,
        backward_seconds=with_tape.seconds - without.seconds,
        input_bytes=state.nbytes,
        tape_bytes=tape,
        forward_extra=max(0, without.peak_bytes - result.nbytes),
        tape_extra=max(0, forward - tape),
        backward_extra=max(0, backward - around),
    )
    return stage, result.detach().requires_grad_()
