"""Activation checkpointing on a model's chain of blocks, by the schedules of fxpass.schedule."""

from fxpass.budget.chain.search import SCHEDULES, ChainSearch

__all__ = ["SCHEDULES", "ChainSearch"]
