"""What the commands share."""

import pytest

from pyf.station.cli import common


@pytest.mark.parametrize("name", ["stdin", "stdout"])
def test_a_standard_file_that_is_closed_is_an_error(monkeypatch, name):
    """
    As with ``>&-``: nothing is lost without a word.
    """
    monkeypatch.setattr(f"sys.{name}", None)
    with pytest.raises(OSError, match=name):
        common.standard(name)
