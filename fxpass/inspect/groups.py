"""Which values of a model's graphs count as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from fxpass.inspect.buffers import Buffer
from fxpass.inspect.run import Watched
from fxpass.inspect.watcher import Key


class Groups:
    """Keys in disjoint sets, each known by one of its members: a union-find."""

    def __init__(self, like: Groups | None = None) -> None:
        self._above: dict[Key, Key] = dict(like._above) if like is not None else {}

    def of(self, key: Key) -> Key:
        """The member by which the set of `key` is known."""
        while (above := self._above.get(key, key)) != key:
            key = above
        return key

    def join(self, keys: Iterable[Key]) -> None:
        """Makes one set of those that have the keys."""
        first, *others = (self.of(key) for key in keys)
        for other in others:
            if other != first:
                self._above[other] = first


def aliases(watched: Watched, buffers: Iterable[Buffer]) -> Groups:
    """The values that lie in one buffer: views of it, and what was written over it."""
    of_address: dict[int, list[Buffer]] = defaultdict(list)
    for buffer in buffers:
        of_address[buffer.address].append(buffer)
    parts, groups = watched.watcher.parts, Groups()
    for result in watched.watcher.results:
        for buffer in of_address[result.address]:
            if buffer.born < result.events <= buffer.freed:
                groups.join((parts[buffer.part].key, parts[result.part].key))
    return groups
