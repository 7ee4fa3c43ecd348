"""Hooks of all kinds, and what they are given: twins that write it down."""

from _twins import Net, Twins, assert_same, bits

REGISTER = {
    "forward": lambda m, hook: m.register_forward_hook(hook),
    "forward, kwargs": lambda m, hook: m.register_forward_hook(hook, with_kwargs=True),
    "forward pre": lambda m, hook: m.register_forward_pre_hook(hook),
    "forward pre, kwargs": lambda m, hook: m.register_forward_pre_hook(hook, with_kwargs=True),
    "backward": lambda m, hook: m.register_full_backward_hook(hook),
    "backward pre": lambda m, hook: m.register_full_backward_pre_hook(hook),
}
# What `Net` becomes without hooks.
OPERATORS = ["conv2d", "batch_norm", "conv2d", "relu_max_pool2d", "bitmap", "linear"]


class Log:
    """A hook that writes down what it is given; one per twin."""

    def __init__(self):
        self.entries = []

    def __call__(self, module, *given):
        name = type(module).__name__.removeprefix("Compiled")
        self.entries.append((name, bits([g for g in given if not isinstance(g, dict)])))


class Logged(Twins):
    """Twins with a log each."""

    def __init__(self, make=Net):
        super().__init__(make)
        self.logs = {id(self.eager): Log(), id(self.compiled): Log()}

    def hook(self, register, path):
        """Registers on a submodule of both; returns the handles."""
        return [
            register(m.get_submodule(path), self.logs[id(m)]) for m in (self.eager, self.compiled)
        ]

    def check_logs(self, at_least):
        eager, compiled = (log.entries for log in self.logs.values())
        assert len(eager) >= at_least
        assert [name for name, _ in eager] == [name for name, _ in compiled]
        for (_, expected), (_, found) in zip(eager, compiled, strict=True):
            assert_same(expected, found)
