"""The package `pyf.station`."""

if __name__ != "pyf.station":
    raise ImportError(
        f"This folder is imported as pyf.station, not as {__name__}: a second name would make "
        "a second copy of every class. Run script/setup, then: import pyf.station"
    )
