"""A memory budget in bytes: what each op costs, a judge of plans, and the search for one."""

from fxpass.budget.planner import PLANNERS, Planner

__all__ = ["PLANNERS", "Planner"]
