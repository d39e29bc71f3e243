"""The package `pyf.transport`."""

if __name__ != "pyf.transport":
    raise ImportError(
        f"This folder is imported as pyf.transport, not as {__name__}: a second name would make "
        "a second copy of every class. Run script/setup, then: import pyf.transport"
    )
