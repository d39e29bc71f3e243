"""The fuzz targets hold for their corpus, and for whatever hypothesis thinks of."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

FUZZ = Path(__file__).resolve().parent / "fuzz"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"fuzz_{name}", FUZZ / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


TARGETS: dict[str, Any] = load("targets").TARGETS
CORPUS: dict[str, list[bytes]] = load("seed").corpus()


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_raises_nothing_but_the_documented_error(name):
    """Every target takes every case that is kept for it."""
    assert CORPUS[name]
    for case in CORPUS[name]:
        TARGETS[name](case)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
@settings(max_examples=150)
def test_a_change_of_a_case_raises_nothing_else_either(name, data):
    """A byte changed, a piece cut or another put in: still nothing but the documented error."""
    case = bytearray(data.draw(st.sampled_from(CORPUS[name])))
    start = data.draw(st.integers(0, len(case)))
    stop = data.draw(st.integers(start, min(len(case), start + 8)))
    case[start:stop] = data.draw(st.binary(max_size=8))
    TARGETS[name](bytes(case))
