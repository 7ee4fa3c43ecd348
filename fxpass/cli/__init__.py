"""The command line `fxpass`: see app.py for its commands."""

from fxpass.cli.app import main

__all__ = ["main"]
