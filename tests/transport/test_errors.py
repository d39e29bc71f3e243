"""Errors form one tree, state facts as attributes, and survive pickling and copying."""

import copy
import pickle
import re
from typing import Any

import pytest

from pyf.transport import errors
from pyf.transport.errors import ConnectionLost, OutcomeUnknown, ServerError, StationError


def tree(root: type[StationError]) -> list[type[StationError]]:
    return [root, *(each for child in root.__subclasses__() for each in tree(child))]


ERRORS = [error for error in tree(StationError) if error.__module__ == errors.__name__]


def drawn(
    error: type[StationError], lead: str = "", branch: str = ""
) -> list[tuple[str, str, str | None]]:
    """
    Lines of the drawing: what stands before the name, the name, and the base in parentheses.
    """
    (builtin,) = [base for base in error.__bases__ if not issubclass(base, StationError)] or [None]
    if error is StationError:
        builtin = None
    lines = [(lead + branch, error.__name__, builtin and builtin.__name__)]
    lead += {"": "", "├── ": "│   ", "└── ": "    "}[branch]
    children = [child for child in error.__subclasses__() if child in ERRORS]
    for child in children:
        lines += drawn(child, lead, "└── " if child is children[-1] else "├── ")
    return lines


def test_the_tree_in_the_docstring_is_the_real_one():
    text = errors.__doc__ or ""
    found = re.findall(r"^    ([ │├└─]*)(\w+)(?: +\((\w+)\))?(?:  .*)?$", text, re.MULTILINE)
    assert [(lead, name, base or None) for lead, name, base in found] == drawn(StationError)


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_exported_and_says_what_it_is(error):
    import pyf.transport

    assert getattr(pyf.transport, error.__name__) is error
    assert error.__name__ in pyf.transport.__all__
    assert error.__doc__


def example(error: type[StationError]) -> tuple[StationError, dict[str, Any]]:
    facts = {name: f"{name} value" for name in error._declared}
    return error("what happened", **facts), facts


@pytest.mark.parametrize("error", ERRORS)
def test_facts_are_attributes_and_str_is_the_sentence(error):
    raised, facts = example(error)
    assert {name: getattr(raised, name) for name in facts} == facts
    assert str(raised) == "what happened"
    assert raised.args == ("what happened",)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        *(
            lambda raised, protocol=protocol: pickle.loads(pickle.dumps(raised, protocol))
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
    ],
)
def test_it_survives_pickling_and_copying_with_facts_and_notes(error, duplicate):
    raised, facts = example(error)
    raised.add_note("a note")
    again = duplicate(raised)
    assert type(again) is error
    assert str(again) == "what happened"
    assert {name: getattr(again, name) for name in facts} == facts
    assert again.__notes__ == ["a note"]


@pytest.mark.parametrize("error", ERRORS)
def test_a_fact_that_the_class_does_not_declare_is_a_type_error(error):
    with pytest.raises(TypeError, match=f"{error.__name__} has no fact named bogus, wrong"):
        error("text", wrong=1, bogus=2)


@pytest.mark.parametrize("error", ERRORS)
def test_a_fact_that_was_not_given_has_a_default(error):
    for name in error._declared:
        assert getattr(error(), name) in ("", 0, 0.0, (), None)


def test_facts_are_inherited():
    assert OutcomeUnknown("x", sent=5).sent == 5
    assert ConnectionLost._declared == OutcomeUnknown._declared


def test_a_subclass_of_ones_own_can_declare_facts():
    class TableMissing(ServerError):
        table: str = ""

    assert TableMissing("x", table="lines", sent=1).table == "lines"
