"""edges -> Plan: one recipe for every saved value."""

from fxpass.plan.free import free_plan
from fxpass.plan.plan import Choice, Plan, Recipe

__all__ = ["Choice", "Plan", "Recipe", "free_plan"]
