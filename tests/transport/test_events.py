"""Events are frozen, and every field says what it is."""

import ast
import dataclasses
import inspect

import pytest

from pyf.transport import events

EVENTS = [
    each
    for each in vars(events).values()
    if inspect.isclass(each) and issubclass(each, events.Event)
]


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_is_frozen_and_takes_keywords_only(event):
    parameters = event.__dataclass_params__
    assert parameters.frozen
    assert all(field.kw_only for field in dataclasses.fields(event))
    assert event.__slots__ is not None


@pytest.mark.parametrize("event", EVENTS)
def test_each_field_has_a_sentence_under_it(event):
    (body,) = ast.parse(inspect.getsource(event)).body
    assert isinstance(body, ast.ClassDef)
    assert ast.get_docstring(body)
    for field, below in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(below, ast.Expr), field.target
            assert isinstance(below.value, ast.Constant), field.target
