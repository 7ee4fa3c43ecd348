"""A memory budget in bytes: what each op costs, a judge of plans, and the search for one."""

from fxpass.budget.planner import Planner

__all__ = ["Planner"]
