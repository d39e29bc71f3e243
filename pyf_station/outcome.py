"""What a server's last word means to a client, whichever client it is."""

from __future__ import annotations

from typing import Any

from pyf.station.listeners import Listeners
from pyf.transport import (
    AuthenticationFailed,
    ConnectionLost,
    DeadlineExceeded,
    FlowCancelled,
    FlowRefused,
    LocalProtocolError,
    OutcomeUnknown,
    Packet,
    ResumeRejected,
    ServerError,
    StationError,
)
from pyf.transport.events import GoAwayReceived, ResultReceived


def outcome(result: ResultReceived, sent: int, timeout: float | None, notify: Listeners) -> Packet:
    """Return the packet of a success, raise the error of anything else; listeners hear of both.

    *sent* packets had left; the call had been given *timeout* seconds.
    """
    error = result_error(result, sent, timeout)
    packet = success_packet(result) if error is None else failure_packet(error)
    notify(packet, final=True)
    if error is not None:
        raise error
    return packet


def success_packet(result: ResultReceived) -> Packet:
    """Return the packet that stands for a success."""
    return Packet(type="success", message=result.value)


def failure_packet(error: StationError) -> Packet:
    """Return the packet that tells listeners of a failure."""
    return Packet(type="failure", error=type(error).__name__, message=str(error))


def result_error(
    result: ResultReceived, sent: int, timeout: float | None = None
) -> StationError | None:
    """Return the error that *result* stands for, None for a success.

    *sent* packets had left; the call had been given *timeout* seconds.
    """
    message = result.error["message"] or ""
    match result.status:
        case "success":
            return None
        case "refused" if result.error["code"] == "unauthenticated":
            return AuthenticationFailed(message)
        case "refused":
            text = f"the server refused the flow: {message}; it is safe to try elsewhere"
            return FlowRefused(text, code=result.error["code"] or "refused")
        case "cancelled":
            text, code = "the server gave the flow up", result.error["code"] or ""
            if code != "cancelled" and message:
                text = f"{text}: {message}"
            return FlowCancelled(text, code=code)
        case "deadline":
            text = f"the server gave the flow up: {message}"
            return DeadlineExceeded(text, timeout=timeout or 0.0)
        case _:
            return _server_error(result, sent)


def refusal(event: GoAwayReceived) -> StationError:
    """Return the error of a flow that a server's GOAWAY leaves out."""
    if event.code in ("busy", "draining") or event.code.endswith("_timeout"):
        return FlowRefused(f"{event.message}: it is safe to try elsewhere", code=event.code)
    return LocalProtocolError(f"the server gave up: {event.message}", code=event.code)


def lost(reason: str, *, whole: bool, **facts: Any) -> ConnectionLost:
    """Return the error of a connection that ended before its flow; *whole*: behind the END."""
    if whole:
        text = f"all {facts['sent']} packets were sent, but their result never came: {reason}"
        return OutcomeUnknown(text, **facts)
    text = f"the connection was lost after {facts['sent']} packets: {reason}"
    return ConnectionLost(text, **facts)


def cut_off(code: str, message: str, *, whole: bool, **facts: Any) -> ConnectionLost:
    """Return the error of a flow that cannot go on over another connection; *whole* as above."""
    text = f"the flow lost its connection, and cannot go on over another one: {message}"
    rejected = ResumeRejected(text, code=code, **facts)
    if not whole:
        return rejected
    text = f"all {facts['sent']} packets were sent, but their result never came: {message}"
    unknown = OutcomeUnknown(text, **facts)
    unknown.__cause__ = rejected
    return unknown


def _server_error(result: ResultReceived, sent: int) -> ServerError:
    facts = {name: result.error[name] or "" for name in ("code", "error_class", "error_id")}
    did = "reported" if facts["code"] == "handler_error" else "failed with"
    text = (
        f"the handler {did} {facts['error_class']} after {result.consumed} packets"
        f" (error {facts['error_id']} in the server's log)"
    )
    if message := result.error["message"]:
        text = f"{text}: {message}"
    return ServerError(
        text,
        **facts,
        message=result.error["message"],
        traceback=result.error["traceback"],
        sent=sent,
        consumed=result.consumed,
    )
