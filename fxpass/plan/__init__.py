"""edges -> Plan: one recipe for every saved value."""

from fxpass.plan.followed import plan_followed
from fxpass.plan.free import cheapest, free_plan
from fxpass.plan.given import plan_as_given
from fxpass.plan.plan import Choice, Plan, Prediction, Recipe, key
from fxpass.plan.recipes import Kept, recipes
from fxpass.plan.values import Mask, Values, is_view

__all__ = [
    "Choice",
    "Kept",
    "Mask",
    "Plan",
    "Prediction",
    "Recipe",
    "Values",
    "cheapest",
    "free_plan",
    "is_view",
    "key",
    "plan_as_given",
    "plan_followed",
    "recipes",
]
