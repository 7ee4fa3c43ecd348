"""Where the memory of a training step goes."""

from fxpass.inspect.profile import Profile, profile
from fxpass.inspect.rows import SavedTensor
from fxpass.inspect.timeline import Timeline

__all__ = ["Profile", "SavedTensor", "Timeline", "profile"]
