"""A module's own Python forward, run with other things called in place of its children.

    view = own_forward_view(module, compiled_form_of)
    run_own_forward(view, args, kwargs)

The view *is* the module as far as its code can tell: an instance of its class that shares its
`__dict__`, so that what it reads and writes is the module's. Only its children are views
too, and calling a view calls `wrap_child(child)`. The module itself is never touched.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, MutableMapping
from types import MethodType
from typing import Any

import torch
from torch import nn

WrapChild = Callable[[nn.Module], Callable[..., Any]]


def own_forward_view(module: nn.Module, wrap_child: WrapChild) -> nn.Module:
    """The view of `module`; where its class cannot be subclassed, the module itself."""
    if isinstance(module, torch.jit.ScriptModule) or _is_view(module):
        return module
    cls = type(module)
    view_class = _view_classes.get(cls)
    if view_class is None:
        try:
            view_class = _view_classes.setdefault(cls, _make_class(cls))
        except Exception:  # the class's own __init_subclass__ may raise anything.
            return module
    view: Any = object.__new__(view_class)
    object.__setattr__(view, "__dict__", module.__dict__)
    view._fxpass_init(module, wrap_child)
    return view


def run_own_forward(view: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Runs the forward of the viewed module's class, or the one set on the instance."""
    replaced = view.__dict__.get("forward")
    if replaced is None:
        return view.forward(*args, **kwargs)
    if isinstance(replaced, MethodType) and replaced.__self__ is original(view):
        return replaced.__func__(view, *args, **kwargs)
    return replaced(*args, **kwargs)


def original(module: Any) -> Any:
    """The module behind a view; anything else as it is."""
    return module._fxpass_origin if _is_view(module) else module


class _Views(MutableMapping[str, Any]):
    """`module._modules` as seen through a view: reads give views, writes reach the module."""

    def __init__(self, view: Any) -> None:
        self._of = view

    def __getitem__(self, name: str) -> Any:
        return self._of._fxpass_child(name, self._members()[name])

    def __setitem__(self, name: str, value: Any) -> None:
        self._members()[name] = original(value)

    def __delitem__(self, name: str) -> None:
        del self._members()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members())

    def __len__(self) -> int:
        return len(self._members())

    def copy(self) -> dict[str, Any]:
        """A plain dict of the children's views."""
        return dict(self)

    def _members(self) -> dict[str, Any]:
        return self._of.__dict__["_modules"]


# A class is kept alive by its view class, and that by the views of its modules: by nothing here.
_view_classes: weakref.WeakValueDictionary[type, type] = weakref.WeakValueDictionary()


def _is_view(module: Any) -> bool:
    return "_fxpass_origin" in type(module).__dict__


def _make_class(cls: type) -> type:
    # Slots, not attributes: the view's __dict__ is the module's.
    slots = ("_fxpass_origin", "_fxpass_wrap", "_fxpass_views")

    def initialise(self: Any, module: nn.Module, wrap_child: WrapChild) -> None:
        for slot, value in zip(slots, (module, wrap_child, {}), strict=True):
            view_class.__dict__[slot].__set__(self, value)

    def child(self: Any, name: str, module: Any) -> Any:
        if module is None:
            return None
        views = self._fxpass_views
        found = views.get(name)
        if found is None or original(found) is not module:
            found = views[name] = own_forward_view(module, self._fxpass_wrap)
        return found

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._fxpass_wrap(self._fxpass_origin)(*args, **kwargs)

    def get(self: Any, name: str) -> Any:
        value = super(view_class, self).__getattr__(name)  # type: ignore[arg-type]
        if isinstance(value, nn.Module):
            return self._fxpass_child(name, value)
        return value

    def assign(self: Any, name: str, value: Any) -> None:
        if name == "_modules":
            value = {n: original(v) for n, v in value.items()}
            self.__dict__["_modules"] = value
        else:
            super(view_class, self).__setattr__(name, original(value))  # type: ignore[arg-type]

    members = {
        "__slots__": slots,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__class__": property(lambda self: cls),
        "__call__": call,
        "__getattr__": get,
        "__setattr__": assign,
        "_modules": property(_Views),
        "_fxpass_init": initialise,
        "_fxpass_child": child,
    }
    view_class = type(cls)(cls.__name__, (cls,), members)
    return view_class
