"""Commands that listen: serve, receive-file, and record as a tap."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from pyf.station.cli import common, running, source
from pyf.station.cli.access import Access, Server, connecting, listening
from pyf.station.cli.sending import record_input
from pyf.station.cli.supervisor import Supervisor
from pyf.station.files import Receiver
from pyf.station.handlers import Handler
from pyf.station.observe import log_events
from pyf.station.server import MAX_CLIENTS, STOP_GRACE, FlowServer
from pyf.station.service import (
    DEFAULT_ENDPOINT,
    HandlerNotFound,
    endpoint_string,
    load_handler,
)
from pyf.station.status import status_site

SHARED = ("tcp", "tcp6", "systemd")
"""Endpoints whose socket can be shared by workers."""


def handler_of(name: str) -> Handler:
    """Return what ``module:name`` names; raises click's errors."""
    try:
        return load_handler(name)
    except HandlerNotFound as error:
        raise click.BadParameter(str(error), param_hint="HANDLER") from error
    except Exception as error:
        raise _broken(name.partition(":")[0], error) from error


def _broken(module: str, error: Exception) -> common.Failure:
    last = traceback.extract_tb(error.__traceback__)[-1]
    filename, line = last.filename, last.lineno
    if isinstance(error, SyntaxError):
        filename, line = error.filename or filename, error.lineno
    text = f"{filename}:{line}: {type(error).__name__}: {error}"
    return common.Failure(f"cannot import {module}: {text}")


@click.command()
@click.argument("handler", metavar="MODULE:HANDLER")
@running.endpoint_option
@listening()
@click.option("--reload", is_flag=True, help="Start anew when a Python file here changes.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that share the endpoints.",
)
@click.option("--max-handlers", type=click.IntRange(min=1), help="Handlers running at once.")
@click.option(
    "--max-clients",
    type=click.IntRange(min=1),
    default=MAX_CLIENTS,
    show_default=True,
    help="Connections at once.",
)
@click.option(
    "--expose-errors",
    is_flag=True,
    help="Clients get the text and traceback of a handler's failure.",
)
@click.option(
    "--status", metavar="ENDPOINT", help="Where a page shows what goes on: tcp:8080 and so on."
)
@click.option("--log-events", is_flag=True, help="Log each flow, its stalls and its end.")
@common.limit_option
@click.option("--log-format", type=click.Choice([*running.LOGS]), default="text")
@click.option("--reactor", type=click.Choice(["default", "asyncio"]), default="default")
@click.option("--adopt", "descriptors", type=int, multiple=True, hidden=True)
@click.option("--adopt-status", type=int, hidden=True)
@click.option("--leash", type=int, hidden=True)
@click.pass_context
def serve(ctx: click.Context, /, **options: Any) -> None:
    """Serve flows with a handler: HANDLER of MODULE, which is found from the current folder.

    With --workers, the status page is that of the process that happens to answer.

    SIGTERM and Ctrl-C drain: no new flow begins, and open ones have Limits.drain_grace to end. A
    second Ctrl-C breaks them off.

    \b
    Examples:
      pyf-station serve handlers:import_rows --endpoint tcp:8000:interface=127.0.0.1
      pyf-station serve handlers:import_rows --endpoint tcp:8000 --workers 4
      pyf-station serve handlers:import_rows --status tcp:8080:interface=127.0.0.1
      pyf-station serve handlers:Import.rows --reload --limit drain_grace=1
    """
    supervised = options["workers"] > 1 or options["reload"]
    ctx.exit(_supervise(options) if supervised else _serve(options))


def _serve(options: dict[str, Any]) -> int:
    reactor = running.the_reactor(options["reactor"])
    handler = handler_of(options["handler"])
    try:
        server = FlowServer(
            handler,
            max_handlers=options["max_handlers"],
            max_clients=options["max_clients"],
            expose_errors=options["expose_errors"],
            observers=[log_events] if options["log_events"] else (),
            limits=common.limits_of(options["bounds"]),
            authenticate=options["access"].authenticate(),
            reactor=reactor,
        )
    except TypeError as error:
        raise click.BadParameter(str(error), param_hint="HANDLER") from error
    factory = options["access"].secured(server, options["endpoints"])
    running.begin_logging(options["log_format"])
    if options["adopt_status"] is not None:
        running.adopt(reactor, status_site(server), options["adopt_status"])
    elif options["status"] is not None:
        _say_status(running.listen(reactor, status_site(server), options["status"]))
    for descriptor in options["descriptors"]:
        running.adopt(reactor, factory, descriptor)
    if not options["descriptors"]:
        for endpoint in options["endpoints"] or (DEFAULT_ENDPOINT,):
            port = running.listen(reactor, factory, endpoint)
            common.say(f"{options['handler']} serves on {running.where(port)}")
    return running.run(reactor, server.stop, options["leash"])


def _say_status(port: Any) -> None:
    common.say(f"status on http://{running.where(port)}/")


def _supervise(options: dict[str, Any]) -> int:
    from twisted.internet import reactor  # never run: it knows how to listen, and its workers serve

    if options["reload"] and importlib.util.find_spec("watchfiles") is None:
        raise common.Failure("--reload needs watchfiles: python -m pip install 'pyf.station[cli]'")
    # What the workers could only say one after the other.
    options["access"].authenticate()
    options["access"].secured(None, options["endpoints"])
    ports = []
    for endpoint in options["endpoints"] or (DEFAULT_ENDPOINT,):
        ports.append(_listen_for_workers(reactor, endpoint))
        common.say(f"{options['handler']} serves on {running.where(ports[-1])}")
    status = None
    if options["status"] is not None:
        status = _listen_for_workers(reactor, options["status"])
        _say_status(status)
    grace = common.limits_of(options["bounds"]).drain_grace + 2 * STOP_GRACE
    descriptors = [port.fileno() for port in ports]
    command = _command(options, descriptors)
    if status is not None:
        command += ["--adopt-status", str(status.fileno())]
        descriptors.append(status.fileno())
    supervisor = Supervisor(command, options["workers"], descriptors, grace)
    return supervisor.run(Path.cwd() if options["reload"] else None)


def _listen_for_workers(reactor: Any, endpoint: str) -> Any:
    if endpoint_string(endpoint).partition(":")[0] not in SHARED:
        text = f"{endpoint!r} cannot be shared by workers; {', '.join(SHARED)} can"
        raise click.BadParameter(text, param_hint="--endpoint")
    return running.listen(reactor, FlowServer(_nobody), endpoint)


def _nobody(flow: Any, client: Any) -> None:
    """Handle nothing: the supervisor accepts no connection."""


def _command(options: dict[str, Any], descriptors: list[int]) -> list[str]:
    command = [sys.executable, "-m", "pyf.station", "serve", options["handler"]]
    for name in ("max_handlers", "max_clients", "log_format", "reactor"):
        if options[name] is not None:
            command += [f"--{name.replace('_', '-')}", str(options[name])]
    for flag in ("expose_errors", "log_events"):
        command += [f"--{flag.replace('_', '-')}"] * options[flag]
    command += options["access"].arguments()
    for name, bound in options["bounds"]:
        command += ["--limit", f"{name}={bound}"]
    for descriptor in descriptors:
        command += ["--adopt", str(descriptor)]
    return command


@click.command("receive-file")
@click.argument("folder", default=".", type=click.Path(exists=True, file_okay=False, writable=True))
@running.endpoint_option
@listening()
@click.option("--overwrite", is_flag=True, help="Replace files that are there already.")
@click.option("--once", is_flag=True, help="End after the first file that has come whole.")
@common.limit_option
@click.pass_context
def receive_file(
    ctx: click.Context,
    folder: str,
    endpoints: tuple[str, ...],
    access: Access,
    overwrite: bool,
    once: bool,
    bounds: tuple[tuple[str, float], ...],
) -> None:
    """Take files that pyf-station send-file sends, into FOLDER (the current one if not given).

    A file has its name only once all of it has come: a transfer that was cut leaves nothing. The
    path of each is a line on stdout.

    \b
    Example:
      pyf-station receive-file incoming --endpoint tcp:8000 --once
    """
    reactor = running.the_reactor()
    receiver = Receiver(folder, overwrite=overwrite)

    def handler(flow: Any, client: Any) -> Any:
        done = receiver(flow, client)
        click.echo(done["path"])
        if once:
            reactor.callFromThread(reactor.stop)
        return done

    server = FlowServer(
        handler,
        limits=common.limits_of(bounds),
        expose_errors=True,
        authenticate=access.authenticate(),
        reactor=reactor,
    )
    factory = access.secured(server, endpoints)
    running.begin_logging()
    for endpoint in endpoints or (DEFAULT_ENDPOINT,):
        common.say(f"receiving on {running.where(running.listen(reactor, factory, endpoint))}")
    ctx.exit(running.run(reactor, server.stop))


@click.command()
@click.argument("target", metavar="FILE", type=click.Path(allow_dash=True))
@click.argument(
    "path", default="-", metavar="[INPUT]", type=click.Path(exists=True, allow_dash=True)
)
@common.header_option
@source.format_option
@click.option("--listen", "endpoint", metavar="ENDPOINT", help="Tap: where clients connect to.")
@click.option("--to", "address", type=common.Address(), help="Tap: the server that they mean.")
@connecting(secret=False)
@listening(secret=False)
@click.pass_context
def record(
    ctx: click.Context,
    target: str,
    path: str,
    header: tuple[tuple[str, Any], ...],
    form: str,
    endpoint: str | None,
    server: Server | None,
    access: Access,
) -> None:
    """Keep a flow in FILE: packets from INPUT (stdin if not given), the header first.

    With --listen and --to it is a tap on a running server: clients connect to it instead, what they
    send goes on to the server, and FILE is a folder that gets each flow as a file. A flow that was
    cut stays a .part, and reads as cut.

    \b
    Examples:
      pyf-station record night.flow rows.csv -H table=prices
      pyf-station record flows --listen tcp:9000 --to localhost:8000
      pyf-station replay flows/000001.flow localhost:8000
    """
    if (endpoint is None) != (server is None):
        raise click.UsageError("a tap needs both, --listen and --to")
    if endpoint is None or server is None:
        record_input(target, path, header, form)
        return
    from pyf.station.cli.tap import Tap

    Path(target).mkdir(parents=True, exist_ok=True)
    reactor = running.the_reactor()
    tap = access.secured(Tap(Path(target), server, reactor), [endpoint])
    running.begin_logging()
    common.say(f"recording on {running.where(running.listen(reactor, tap, endpoint))}")
    ctx.exit(running.run(reactor, reactor.crash))
