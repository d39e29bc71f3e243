"""A shared secret as command lines take it: never itself, for anybody can list them."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyf.station.intercept import Interceptor

__all__ = ["presenting", "read_secret"]


def read_secret(source: str) -> str:
    """Return the secret at *source*: ``env:NAME``, or ``file:PATH``, where it is a line.

    Raises ValueError for another kind of source, and for one that is empty; OSError for a file that
    cannot be read.
    """
    kind, _, name = source.partition(":")
    if kind == "env":
        secret = os.environ.get(name, "")
    elif kind == "file":
        secret = Path(name).read_text(encoding="utf-8").rstrip("\r\n")
    else:
        raise ValueError(
            "a secret is given as env:NAME or file:PATH, for anybody can read a command line"
        )
    if not secret:
        raise ValueError(f"there is no secret in {source}")
    return secret


def presenting(secret: str, field: str = "authtkt") -> Interceptor:
    """Return an interceptor for a client, which puts *secret* into a *field* of each header."""

    @contextmanager
    def present(call: Any) -> Generator[None]:
        call.map_header(lambda header: header | {field: secret})
        yield

    return present
