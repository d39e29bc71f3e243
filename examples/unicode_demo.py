"""Streams every named Unicode character to another process, which writes them into a database.

    python examples/unicode_demo.py                   the whole demo; needs pyf.station[demo]
    python examples/unicode_demo.py --find snowman    looks something up in what it wrote

Two processes, one TCP connection. This one, the client, iterates `characters()`. The other one, the
server, runs `store()`: it inserts each packet as it comes, says how far it is, and ends with a
summary. It writes unicode.sqlite in the current directory; --database names another file.
"""

import argparse
import os
import shlex
import sqlite3
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from contextlib import closing, contextmanager, suppress
from decimal import Decimal
from pathlib import Path

from pyf.station import FlowServer, StationClient
from pyf.transport import Packet

DATABASE = Path("unicode.sqlite")
ROWS_PER_MESSAGE = 10_000
GROUPS = {
    "L": "Letters",
    "M": "Marks",
    "N": "Numbers",
    "P": "Punctuation",
    "S": "Symbols",
    "Z": "Separators",
    "C": "Other",
}


# The client's side


def characters():
    """Yield a packet for each character that has a name."""
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if name := unicodedata.name(char, None):
            number = unicodedata.numeric(char, None)
            yield Packet(
                code=code,
                name=name,
                category=unicodedata.category(char),
                number=None if number is None else Decimal(str(number)),
                decomposition=unicodedata.decomposition(char),
            )


def demo(database):
    from tqdm import tqdm  # only this side draws

    total = sum(unicodedata.name(chr(code), None) is not None for code in range(sys.maxunicode + 1))
    header = Packet(title="named Unicode characters", version=unicodedata.unidata_version)
    with server_process(database) as port:
        print(f"Sending {total:,} {header.title} (Unicode {header.version})")
        began = time.perf_counter()
        call = StationClient("127.0.0.1", port, True).call(characters(), header)
        # No bar where nobody would see it move.
        with call, tqdm(total=total, unit=" packets", unit_scale=True, disable=None) as bar:
            for value in call:
                if value is True:
                    bar.update()
                elif value.type == "info":
                    bar.write(f"  server: {value.message}")
        seconds = time.perf_counter() - began
    summary = value.message
    print(f"\n{summary.rows:,} rows are in {database}, by category:\n")
    print_categories(summary.categories)
    print(f"\nThat was {call.sent / seconds:,.0f} packets per second, each one row of a database.")
    print(f"Try next: {command(database, '--find', 'snowman')}")


@contextmanager
def server_process(database):
    """Run the server, and give its port. It ends when this process does, however that comes."""
    arguments = [sys.executable, __file__, "--serve", "--database", database]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        port = server.stdout.readline()
        if not port:
            sys.exit("The server did not start.")
        print(f"The server is process {server.pid} and listens on port {port.strip()}.")
        try:
            yield int(port)
        finally:
            server.stdin.close()  # for which it waits
            server.wait()


# The server's side


class Store:
    """The handler: writes a flow into the database, which it replaces in the end, in one step."""

    def __init__(self, database):
        self.database = database

    def __call__(self, flow, client):
        next(flow)  # the header, of no use here
        part = Path(f"{self.database}.{os.getpid()}.part")
        try:
            with closing(sqlite3.connect(part)) as db:
                db.execute("PRAGMA journal_mode = OFF")  # if it fails, the file goes
                summary = self.insert(flow, client, db)
            part.replace(self.database)
        finally:
            part.unlink(missing_ok=True)
        return summary

    def insert(self, flow, client, db):
        db.execute(
            "CREATE TABLE characters (code INTEGER PRIMARY KEY,"
            " name TEXT, category TEXT, number TEXT, decomposition TEXT)"
        )
        categories = Counter()

        def rows():
            for count, packet in enumerate(flow, 1):
                categories[packet["category"]] += 1
                number = packet["number"]  # SQLite has no decimals
                yield {**packet, "number": None if number is None else str(number)}
                if not count % ROWS_PER_MESSAGE:
                    client.message(Packet(type="info", message=f"{count:,} rows written"))

        db.executemany(
            "INSERT INTO characters VALUES (:code, :name, :category, :number, :decomposition)",
            rows(),
        )
        db.commit()
        return {"rows": categories.total(), "categories": dict(categories.most_common())}


def serve(database):
    from twisted.internet import error, protocol, reactor, stdio  # only this side needs them

    class Parent(protocol.Protocol):
        def connectionLost(self, reason):  # noqa: N802 - Twisted's name
            with suppress(error.ReactorNotRunning):  # Ctrl-C reaches both processes
                reactor.stop()

    server = FlowServer(Store(database))
    port = reactor.listenTCP(0, server, interface="127.0.0.1")  # 0: any free port
    print(port.getHost().port)
    stdio.StandardIO(Parent())
    reactor.run()


# What remains


def find(database, words):
    query = "SELECT code, category, name FROM characters WHERE name LIKE ?"
    with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as db:
        for code, category, name in db.execute(query, [f"%{words}%"]):
            print(f"U+{code:04X}  {chr(code)}  {category}  {name}")


def print_categories(counts):
    """Print a line for each group of categories: they share a first letter."""
    for letter, group in GROUPS.items():
        parts = {name: count for name, count in counts.items() if name[0] == letter}
        details = "  ".join(f"{name} {count:,}" for name, count in parts.items())
        print(f"  {group:<12} {sum(parts.values()):>8,}   {details}")


def command(database, *arguments):
    python = sys.executable.removeprefix(f"{Path.cwd()}{os.sep}")
    chosen = [] if database == DATABASE else ["--database", str(database)]
    return shlex.join([python, sys.argv[0], *chosen, *arguments])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", type=Path, default=DATABASE, metavar="FILE")
    parser.add_argument("--find", metavar="WORDS", help="print the characters named so")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # also for those who watch it through a pipe
    try:
        if args.serve:
            serve(args.database)
        elif args.find:
            find(args.database, args.find)
        else:
            demo(args.database)
    except KeyboardInterrupt:
        sys.exit("Interrupted.")


if __name__ == "__main__":
    main()
