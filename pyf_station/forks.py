"""What a process that was forked leaves to the one that it was forked from: what is open there."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from pyf.station.line import line
from pyf.station.nursery import nursery
from pyf.station.relay import relay


class Owned(Protocol):
    """What belongs to one process."""

    def disown(self) -> None:
        """Leave it to the process that this one was forked from."""
        ...


owned: weakref.WeakSet[Owned] = weakref.WeakSet()
"""All that this process has of it."""


def _forked() -> None:
    nursery.forget()
    line.forget()
    relay.forget()
    for each in list(owned):
        each.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
