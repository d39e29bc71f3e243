"""The package exports what it says, under the one name."""

import pyf.transport


def test_every_exported_name_exists_once_and_sorted():
    assert pyf.transport.__all__ == sorted(set(pyf.transport.__all__))
    assert all(hasattr(pyf.transport, name) for name in pyf.transport.__all__)
