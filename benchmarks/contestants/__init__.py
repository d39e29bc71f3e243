"""The contestants, a module each. Each module has a tuple ``CONTESTANTS``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable

from benchmarks.contestant import Contestant


def load(module: str, name: str) -> Contestant:
    """Return the contestant *name* of *module*; nothing of the others is imported."""
    found: Iterable[Contestant] = importlib.import_module(f"{__name__}.{module}").CONTESTANTS
    return next(each for each in found if each.name == name)


def load_all() -> tuple[dict[str, Contestant], dict[str, str]]:
    """Return the contestants by name, and of the modules that cannot be used here, why."""
    found: dict[str, Contestant] = {}
    missing: dict[str, str] = {}
    for module in sorted(each.name for each in pkgutil.iter_modules(__path__)):
        try:
            contestants = importlib.import_module(f"{__name__}.{module}").CONTESTANTS
        except ImportError as error:
            missing[module] = str(error)
        else:
            found |= {each.name: each for each in contestants}
    return found, missing


def module_of(contestant: Contestant) -> str:
    return type(contestant).__module__.rpartition(".")[2]
