"""Fixtures for pytest: ``pytest_plugins = ["pyf.station.testing.fixtures"]`` in a conftest.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pyf.station.testing.chaos import ChaosProxy

__all__ = ["chaos"]


@pytest.fixture
def chaos() -> Iterator[Callable[[int], ChaosProxy]]:
    """Give a function that takes a port of this machine and returns a ChaosProxy to it.

    Every proxy that a test makes is closed after the test.
    """
    with ExitStack() as stack:
        yield lambda port: stack.enter_context(ChaosProxy(port))
