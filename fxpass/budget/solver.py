"""HiGHS without a word on standard output, which is the command line's."""

from __future__ import annotations

import highspy


class Solver(highspy.Highs):
    """A model to solve; prints nothing.

    HiGHS prints its version at the first call that is no option, and the base class makes such
    calls before anybody could set one.
    """

    def enableCallbacks(self) -> None:
        """As the base class does, but silent."""
        self.setOptionValue("output_flag", False)
        super().enableCallbacks()
