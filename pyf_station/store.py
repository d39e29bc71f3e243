"""Where handlers note how far a flow is, in one transaction with what they did: exactly once.

A store remembers one number for each flow name: how many of its packets are handled for good. The
epoch counts the sessions that a flow had: a handler of an earlier one, which may still run here or
in another process, can note nothing any more, and so does nothing.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pyf.transport import FlowCancelled

__all__ = ["PostgreSQLStore", "SQLiteStore", "Store"]

Effects = Callable[[Any], object]
"""What a handler does with the store's database connection, within the transaction."""

_TABLE = """
    CREATE TABLE IF NOT EXISTS station_flows
    (name TEXT PRIMARY KEY, sequence BIGINT NOT NULL, epoch BIGINT NOT NULL)
"""
_BEGIN = """
    INSERT INTO station_flows (name, sequence, epoch) VALUES (?, 0, 1)
    ON CONFLICT (name) DO UPDATE SET epoch = station_flows.epoch + 1 RETURNING sequence, epoch
"""
_CHECKPOINT = """
    UPDATE station_flows SET sequence = ? WHERE name = ? AND epoch = ? AND sequence <= ?
"""


class Store(Protocol):
    """What a store does. Its methods block, and are called from many threads at once."""

    def begin(self, name: str) -> tuple[int, int]:
        """Begin a session of the flow; return how many packets are handled, and its epoch."""
        ...

    def checkpoint(self, name: str, epoch: int, sequence: int, effects: Effects | None) -> None:
        """Note that *sequence* packets are handled, in one transaction with *effects*.

        Raises FlowCancelled, with nothing done, where another session has begun since, or a
        higher sequence was noted; and whatever *effects* raises, with nothing done either.
        """
        ...


class Progress(NamedTuple):
    """One session of a flow with a name, as its handler notes how far it is."""

    store: Store
    name: str
    epoch: int

    def checkpoint(self, sequence: int, effects: Effects | None) -> None:
        """Note that *sequence* packets are handled, in one transaction with *effects*."""
        self.store.checkpoint(self.name, self.epoch, sequence, effects)


class SQLiteStore:
    """A store in an SQLite file, for servers of one machine that may share it.

    *effects* get the ``sqlite3.Connection``: their tables live in the same file.
    """

    def __init__(self, path: str | Path, timeout: float = 30.0) -> None:
        self._path = path
        self._timeout = timeout
        with closing(self._connect()) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(_TABLE)

    def begin(self, name: str) -> tuple[int, int]:
        """Begin a session of the flow; return how many packets are handled, and its epoch."""
        with closing(self._connect()) as database:
            ((sequence, epoch),) = database.execute(_BEGIN, (name,)).fetchall()
        return sequence, epoch

    def checkpoint(self, name: str, epoch: int, sequence: int, effects: Effects | None) -> None:
        """Note that *sequence* packets are handled, in one transaction with *effects*."""
        with closing(self._connect()) as database:
            database.execute("BEGIN IMMEDIATE")
            # Without COMMIT, closing rolls back.
            done = database.execute(_CHECKPOINT, (sequence, name, epoch, sequence))
            _check(done.rowcount, name)
            if effects is not None:
                effects(database)
            database.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=self._timeout, isolation_level=None)


class PostgreSQLStore:
    """A store in a PostgreSQL database, for servers on any number of machines.

    *conninfo* is what ``psycopg.connect`` takes. *effects* get the ``psycopg.Connection``. Each
    thread has a connection of its own. Needs the extra ``pyf.station[postgresql]``.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[Any] = []
        with self._connection().transaction():
            # Two servers may start at once, and CREATE TABLE IF NOT EXISTS is no lock.
            self._connection().execute("SELECT pg_advisory_xact_lock(7960176)")
            self._connection().execute(_TABLE)

    def begin(self, name: str) -> tuple[int, int]:
        """Begin a session of the flow; return how many packets are handled, and its epoch."""
        database = self._connection()
        with database.transaction():
            sequence, epoch = database.execute(_in_psycopg(_BEGIN), (name,)).fetchone()
        return sequence, epoch

    def checkpoint(self, name: str, epoch: int, sequence: int, effects: Effects | None) -> None:
        """Note that *sequence* packets are handled, in one transaction with *effects*."""
        database = self._connection()
        with database.transaction():
            done = database.execute(_in_psycopg(_CHECKPOINT), (sequence, name, epoch, sequence))
            _check(done.rowcount, name)
            if effects is not None:
                effects(database)

    def close(self) -> None:
        """Close the connections of all threads."""
        for connection in self._connections:
            connection.close()

    def _connection(self) -> Any:
        connection = getattr(self._local, "connection", None)
        if connection is None or connection.closed:
            import psycopg

            connection = psycopg.connect(self._conninfo, autocommit=True)
            self._local.connection = connection
            with self._lock:
                still_open = [each for each in self._connections if not each.closed]
                self._connections = [*still_open, connection]
        return connection


def _in_psycopg(statement: str) -> str:
    return statement.replace("?", "%s")


def _check(changed: int, name: str) -> None:
    if not changed:
        text = f"the flow {name!r} goes on in another session, or is further already"
        raise FlowCancelled(text)
