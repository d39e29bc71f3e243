"""Which of our modules are compiled: all that can be, unless the environment chooses Python.

Each does the same as one in Python, so nobody else needs to know which it is.
``PYF_STATION_PURE=1`` chooses Python.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

PURE = "PYF_STATION_PURE"
"""The environment variable that chooses Python."""


def compiled(name: str) -> ModuleType | None:
    """Return the compiled module of that full *name*; None where it is not there, or ruled out."""
    if os.environ.get(PURE):
        return None
    try:
        return import_module(name)
    except ImportError:  # It was installed without a compiler.
        return None
