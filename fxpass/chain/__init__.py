"""The user's own chain or time loop, `for step in steps: x = step(x)`, in less memory."""

from fxpass.chain.checkpoint import checkpoint_chain
from fxpass.chain.measure import measure

__all__ = ["checkpoint_chain", "measure"]
