"""In what order a chain of stages runs forward and backward, and what is held meanwhile.

Schedulers have one signature, `(chain, number) -> Schedule`, and one judge. A schedule is a tuple
of small actions; `judge` executes them on paper and says what they take.
"""

from fxpass.schedule.actions import Action, Backward, Drop, Forward, Keep, Schedule, Tape
from fxpass.schedule.chain import Chain, Stage
from fxpass.schedule.holdings import Holdings
from fxpass.schedule.judge import Verdict, judge
from fxpass.schedule.optimal import optimal
from fxpass.schedule.revolve import advances, default_slots, revolve
from fxpass.schedule.smallest import smallest, smallest_bytes
from fxpass.schedule.uniform import plain, uniform

__all__ = [
    "Action",
    "Backward",
    "Chain",
    "Drop",
    "Forward",
    "Holdings",
    "Keep",
    "Schedule",
    "Stage",
    "Tape",
    "Verdict",
    "advances",
    "default_slots",
    "judge",
    "optimal",
    "plain",
    "revolve",
    "smallest",
    "smallest_bytes",
    "uniform",
]
