"""plan -> graph of fxpass operators: one file a rewrite."""

from fxpass.rewrite.rewrite import rewrite

__all__ = ["rewrite"]
