"""What a store notes, it notes with the effects or not at all, and for one session at a time."""

import os
import pwd
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyf.station import PostgreSQLStore, ResumePolicy, SQLiteStore, StationClient
from pyf.transport import FlowCancelled, LocalProtocolError, Packet, ServerError

SECONDS = 60


@pytest.fixture(scope="module")
def conninfo(program: Callable[..., Path]) -> Iterator[str]:
    """
    A PostgreSQL server of the tests' own, on a socket in a directory of its own.
    """
    programs = program("initdb", "usr/lib/postgresql/*/bin/initdb").parent
    # The path of a socket is short, and root's own folders are closed to others.
    with tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        as_user: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL}
        if os.getuid() == 0:
            user = pwd.getpwnam("nobody")  # PostgreSQL refuses to run as root.
            os.chown(folder, user.pw_uid, user.pw_gid)
            as_user |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}

        def run(*command: object) -> None:
            subprocess.run([*map(str, command)], check=True, timeout=SECONDS, **as_user)

        data = folder / "data"
        run(programs / "initdb", "-D", data, "-U", "station", "-A", "trust", "--no-sync")
        options = f"-k {folder} -c listen_addresses= -c fsync=off"
        run(
            *(programs / "pg_ctl", "start", "-w", "-D", data, "-l", folder / "log"),
            *("-o", options),
        )
        yield f"host={folder} user=station dbname=postgres"
        run(programs / "pg_ctl", "stop", "-w", "-m", "immediate", "-D", data)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """
    An empty store with a table to write to.
    """
    if request.param == "sqlite":
        made: Any = SQLiteStore(tmp_path / "store.db")
        name = "create"
        made.begin(name)
        made.checkpoint(name, 1, 0, lambda database: database.execute(TABLE))
        yield made
        return
    made = PostgreSQLStore(request.getfixturevalue("conninfo"))
    made.begin("create")
    made.checkpoint("create", 1, 0, lambda database: database.execute(f"{DROP}; {TABLE}"))
    yield made
    made.close()


DROP = "DROP TABLE IF EXISTS done; DELETE FROM station_flows"
TABLE = "CREATE TABLE done (number INTEGER)"


def insert(number: int) -> Callable[[Any], object]:
    return lambda database: database.execute(f"INSERT INTO done VALUES ({number})")


def rows(store: Any) -> list[int]:
    found: list[int] = []

    def read(database: Any) -> None:
        cursor = database.execute("SELECT number FROM done ORDER BY number")
        found.extend(number for (number,) in cursor.fetchall())

    _, epoch = store.begin("read")
    store.checkpoint("read", epoch, 0, read)
    return found


def test_a_checkpoint_is_where_the_next_session_begins(store):
    """
    Each session has an epoch of its own; flows of other names know nothing of it.
    """
    assert store.begin("orders") == (0, 1)
    store.checkpoint("orders", 1, 5, insert(1))
    store.checkpoint("orders", 1, 5, None)
    assert store.begin("orders") == (5, 2)
    assert store.begin("others") == (0, 1)
    assert rows(store) == [1]


def test_an_earlier_session_can_do_nothing_any_more(store):
    """
    Neither its effects nor its sequence are noted.
    """
    store.begin("orders")
    store.begin("orders")
    with pytest.raises(FlowCancelled, match="goes on in another session"):
        store.checkpoint("orders", 1, 1, insert(1))
    assert rows(store) == []
    assert store.begin("orders") == (0, 3)


def test_what_was_noted_is_never_taken_back(store):
    """
    A lower sequence is refused, with its effects.
    """
    store.begin("orders")
    store.checkpoint("orders", 1, 5, None)
    with pytest.raises(FlowCancelled):
        store.checkpoint("orders", 1, 4, insert(1))
    assert rows(store) == []


def test_effects_that_fail_leave_nothing(store):
    """
    The sequence stays as it was, and what the effects raise is raised.
    """

    def fail(database: Any) -> None:
        insert(1)(database)
        raise ZeroDivisionError

    store.begin("orders")
    with pytest.raises(ZeroDivisionError):
        store.checkpoint("orders", 1, 1, fail)
    assert rows(store) == []
    assert store.begin("orders") == (0, 2)


def test_many_threads_use_one_store(store):
    """
    Each flow has its own sequence, and nothing is lost.
    """
    errors: list[BaseException] = []

    def work(name: str) -> None:
        try:
            _, epoch = store.begin(name)
            for number in range(10):
                store.checkpoint(name, epoch, number, insert(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"flow {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert rows(store) == sorted([*range(10)] * 4)


# With a server and a client


def packets_from(start: int) -> Iterator[Packet]:
    return (Packet(n=n) for n in range(start, 100))


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_a_flow_with_a_name_goes_on_behind_its_last_checkpoint(serve, store, kind, logged_errors):
    """
    A handler that fails has what it noted; the next call sends the rest.
    """
    fail = [True]

    def handler(flow, client):
        for done, packet in enumerate(flow, client.start + 1):
            if done == 60 and fail:
                fail.clear()
                raise ZeroDivisionError
            client.checkpoint(done, insert(packet.n))

    async def coroutine(flow, client):
        done = client.start
        async for packet in flow:
            done += 1
            if done == 60 and fail:
                fail.clear()
                raise ZeroDivisionError
            await client.checkpoint(done, insert(packet.n))

    chosen = handler if kind == "thread" else coroutine
    client = StationClient("127.0.0.1", serve(chosen, resume=ResumePolicy(store=store)))
    with pytest.raises(ServerError):
        client.send(packets_from, flow_id="orders")
    assert rows(store) == list(range(59))
    client.send(packets_from, flow_id="orders")
    assert rows(store) == list(range(100))
    logged_errors.claim(ZeroDivisionError)


def test_a_checkpoint_is_of_packets_that_were_taken(serve, tmp_path, logged_errors):
    """
    Of others, or of a flow without a name, there is none.
    """
    found: list[BaseException] = []

    def handler(flow, client):
        for packet in flow:
            try:
                client.checkpoint(packet.n)
            except (ValueError, LocalProtocolError) as error:
                found.append(error)

    store = SQLiteStore(tmp_path / "store.db")
    client = StationClient("127.0.0.1", serve(handler, resume=ResumePolicy(store=store)))
    client.send(lambda start: [Packet(n=-1), Packet(n=1), Packet(n=4)], flow_id="orders")
    assert [str(error) for error in found] == [
        "a checkpoint at -1, where 1 packets were taken",
        "a checkpoint at 4, where 3 packets were taken",
    ]
    client.send([Packet(n=1)])
    assert isinstance(found[2], LocalProtocolError)
