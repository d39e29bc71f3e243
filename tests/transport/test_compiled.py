"""What is compiled is used where it is there."""

import sys
from types import ModuleType

import pytest

from pyf.transport.compiled import PURE, compiled

NAME = "pyf.transport._something"


@pytest.fixture(autouse=True)
def module(monkeypatch):
    made = ModuleType(NAME)
    monkeypatch.setitem(sys.modules, NAME, made)
    monkeypatch.delenv(PURE, raising=False)
    return made


def test_what_is_compiled_is_used_where_it_is_installed(module):
    assert compiled("pyf.transport._something") is module


def test_the_environment_can_choose_python(monkeypatch):
    monkeypatch.setenv(PURE, "1")
    assert compiled("pyf.transport._something") is None


def test_python_is_used_where_nothing_could_be_compiled(monkeypatch):
    monkeypatch.setitem(sys.modules, NAME, None)
    assert compiled("pyf.transport._something") is None
