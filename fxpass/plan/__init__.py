"""edges -> Plan: one recipe for every saved value."""

from fxpass.plan.free import free_plan
from fxpass.plan.given import plan_as_given
from fxpass.plan.plan import Choice, Plan, Recipe, key

__all__ = ["Choice", "Plan", "Recipe", "free_plan", "key", "plan_as_given"]
