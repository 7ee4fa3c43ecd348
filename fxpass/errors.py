"""Every error that fxpass raises on purpose."""


class FxpassError(Exception):
    """The base of all of them."""


class TraceError(FxpassError):
    """With `strict=True`: a module cannot be captured without losing something."""


class BudgetError(FxpassError):
    """No plan fits the memory budget; the message names the smallest possible one.

    Attributes:
        smallest_bytes: that one.

    """

    def __init__(self, message: str, smallest_bytes: int) -> None:
        super().__init__(message, smallest_bytes)
        self.smallest_bytes = smallest_bytes

    def __str__(self) -> str:
        return str(self.args[0])


class MismatchError(FxpassError):
    """`verify` found a result that differs from eager's; the message names the first such op."""


class ExportError(FxpassError):
    """The compiled model cannot be written as TorchScript."""
