"""Models that torch.fx cannot trace: what they compute depends on values, or on a length."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 10


def _block(inputs: int, outputs: int) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class EarlyExit(nn.Module):
    """Leaves by the first classifier that is sure enough of the batch (BranchyNet).

    Written without a loop: where a graph would break inside of one, Dynamo gives up the function.
    """

    def __init__(self, sure: float = 0.6) -> None:
        super().__init__()
        self.first = nn.Sequential(_block(3, 16), _block(16, 32), nn.MaxPool2d(2))
        self.second = nn.Sequential(_block(32, 32), _block(32, 64), nn.MaxPool2d(2), _block(64, 64))
        self.early, self.late = nn.Linear(32, CLASSES), nn.Linear(64, CLASSES)
        self.sure = sure

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.first(x)
        logits = self.early(x.mean((2, 3)))
        if logits.softmax(1).amax(1).mean() > self.sure:
            return logits
        return self.late(self.second(x).mean((2, 3)))


class Frames(nn.Module):
    """Goes through the frames of a video one by one, however many there are (N, T, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.remember = _block(3, 16), nn.Conv2d(32, 16, 3, padding=1)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(16, CLASSES)

    def forward(self, video: Tensor) -> Tensor:
        """Logits."""
        state = video.new_zeros(len(video), 16, *video.shape[3:])
        for i in range(video.shape[1]):
            seen = torch.cat([self.look(video[:, i]), state], 1)
            state = torch.tanh(self.remember(F.hardswish(seen)))
        return self.head(self.drop(F.relu(state)).mean((2, 3)))


class Experts(nn.Module):
    """Sends the whole batch through the experts that a gate chooses, known only when it runs."""

    def __init__(self, experts: int = 4, chosen: int = 2) -> None:
        super().__init__()
        self.stem, self.gate = _block(3, 16), nn.Linear(16, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(_block(16, 32), _block(32, 16)) for _ in range(experts)
        )
        self.head, self.chosen = nn.Linear(16, CLASSES), chosen

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.stem(x)
        weights = self.gate(x.mean((2, 3))).mean(0).softmax(0)
        mixed = x
        for i in weights.topk(self.chosen).indices.tolist():
            mixed = mixed + weights[i] * self.experts[i](x)
        return self.head(F.relu(mixed).mean((2, 3)))
