# cython: language_level=3, binding=False, boundscheck=False, wraparound=False, initializedcheck=False
"""What is ordinary in one step, compiled: the same events, frames and counts, only sooner.

Nothing is raised here, and nothing changed before all is known to be ordinary.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from pyf.transport import budget, census, errors, events, frames, limits, payloads, pieces, states

cdef extern from "Python.h":
    int PyObject_GenericSetAttr(object where, object name, object value) except -1

cdef enum:
    HEAD = 9  # bytes before a payload
    BATCH = 13  # bytes of it before the packets
    COUNTS = 16  # bytes of a RESULT's before its fields
    ARRAY32 = 0xDD

cdef int OPEN = frames.FrameType.OPEN
cdef int DATA = frames.FrameType.DATA
cdef int MESSAGE = frames.FrameType.MESSAGE
cdef int END = frames.FrameType.END
cdef int RESULT = frames.FrameType.RESULT
cdef Py_ssize_t SMALL = budget.SMALL
cdef Py_ssize_t LARGE = limits.LARGE
cdef Py_ssize_t QUICK = census.QUICK_BYTES
cdef object READY = states.ConnectionState.READY
cdef object STREAMING = states.FlowState.STREAMING
cdef object ENDED = states.FlowState.ENDED
cdef object CLOSED = states.FlowState.CLOSED
cdef dict MOVES = states.FLOW_MOVES
cdef dict SENDERS = states.SENDERS
cdef dict KNOWN = frames._KNOWN
cdef object decode_open = payloads.decode_open
cdef object decode_outcome = payloads.decode_outcome
cdef object RemoteProtocolError = errors.RemoteProtocolError
cdef object new_tuple = tuple.__new__
cdef object Run = pieces.Run
cdef type Frame = frames.Frame
cdef type Batch = frames.Batch
cdef type FlowOpened = events.FlowOpened
cdef type PacketsReceived = events.PacketsReceived
cdef type FlowEnded = events.FlowEnded
cdef type ResultReceived = events.ResultReceived


def store(machine, data):
    if type(data) is not bytes or not data or machine.state is not READY:
        return False
    parser = machine._parser
    if parser._chunks or parser._buffer is not None:
        return False
    parser._chunks.append(data)
    parser.pending = PyBytes_GET_SIZE(data)
    return True


def next_frame(parser):
    chunk = first_chunk(parser)
    if chunk is None or parser.allowed:
        return None
    cdef Py_ssize_t start = parser._at
    cdef int64_t there = PyBytes_GET_SIZE(chunk) - start
    if there < HEAD:
        return None
    cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(chunk) + start
    cdef int64_t length = number32(at)
    kind = KNOWN.get(at[4])
    if kind is None or there < HEAD + length or kind == DATA and parser.known is not None:
        return None
    least, most = parser._limits[kind]
    if not <int64_t>least <= length <= <int64_t>most:
        return None
    identity, payload = number32(at + 5), PyBytes_FromStringAndSize(<const char*>at + HEAD, length)
    advance(parser, at[4], there, HEAD + length)
    return new_tuple(Frame, (kind, identity, payload))


def receive(machine):
    parser = machine._parser
    if machine.state is not READY:
        return None
    chunk = first_chunk(parser)
    if chunk is None:
        return None if parser.pending or machine._eof else False
    if machine._fenced:
        return None
    cdef Py_ssize_t start = parser._at
    cdef int64_t there = PyBytes_GET_SIZE(chunk) - start
    if there < HEAD:
        return None
    cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(chunk) + start
    cdef int64_t length = number32(at)
    if there < HEAD + length:
        return None
    cdef int taken = DATA if machine._batch_frame == MESSAGE else MESSAGE
    flow = machine._flows.get(number32(at + 5))
    if flow is None:
        if at[4] != OPEN or taken != DATA:
            return None
        event = received_open(machine, number32(at + 5), at + HEAD, length)
    elif at[4] == RESULT and taken == MESSAGE:
        event = received_result(machine, flow, at + HEAD, length)
    elif flow.state is not STREAMING:
        return None
    elif at[4] == taken:
        event = received_batch(machine, flow, at + HEAD, length)
    elif at[4] == END and taken == DATA:
        event = received_end(flow, at + HEAD, length)
    else:
        return None
    if event is not None:
        advance(parser, at[4], there, HEAD + length)
    return event


cdef object received_open(machine, number, const unsigned char* at, int64_t length):
    least, most = machine._parser._limits[OPEN]
    if not <int64_t>least <= length <= <int64_t>most or number <= machine._last_flow:
        return None
    if machine._leaving or len(machine._flows) >= machine.limits.max_flows:
        return None
    try:
        header, timeout, waits, length_hint, resume, name = decode_open(
            PyBytes_FromStringAndSize(<const char*>at, length), machine._bounds
        )
    except RemoteProtocolError:
        return None
    machine._add_flow(number).state = STREAMING
    event = FlowOpened.__new__(FlowOpened)
    PyObject_GenericSetAttr(event, "flow_id", number)
    PyObject_GenericSetAttr(event, "header", header)
    PyObject_GenericSetAttr(event, "timeout", timeout)
    PyObject_GenericSetAttr(event, "waits", waits)
    PyObject_GenericSetAttr(event, "length_hint", length_hint)
    PyObject_GenericSetAttr(event, "resume", resume)
    PyObject_GenericSetAttr(event, "name", name)
    return event


cdef object received_batch(machine, flow, const unsigned char* at, int64_t length):
    cdef int64_t size = length - BATCH
    if not 0 < size <= <int64_t>machine.limits.max_packet:
        return None
    known = machine._parser.known
    if known is not None and flow.id not in known:
        return None
    cdef int64_t count = number32(at + 9)
    if at[8] != ARRAY32 or not 0 < count <= size:
        return None
    window = flow.receive._peer
    cdef uint64_t first = window.sent_packets
    cdef int64_t before = window.sent_bytes
    if number64(at) != first or count > saturated(window.packets_limit) - <int64_t>first:
        return None
    if size > saturated(window.bytes_limit) - before:
        return None
    if length <= SMALL and machine._budget is not None:
        left = machine._budget._left
        if left["small batch"] < 1:
            return None
        left["small batch"] -= 1
    window.sent_packets = first + count
    window.sent_bytes = before + size
    batch = Batch.__new__(Batch)
    batch.first = first
    batch.packets = count
    batch.payload = PyBytes_FromStringAndSize(<const char*>at, length)
    batch.bounds = machine._packet_bounds
    batch.heavy = False
    event = PacketsReceived.__new__(PacketsReceived)
    # As a frozen dataclass does itself.
    PyObject_GenericSetAttr(event, "flow_id", flow.id)
    PyObject_GenericSetAttr(event, "batch", batch)
    return event


cdef object received_end(flow, const unsigned char* at, int64_t length):
    count = flow.receive._peer.sent_packets
    if length != 8 or flow.kept is not None or number64(at) != <uint64_t>count:
        return None
    flow.state = ENDED
    event = FlowEnded.__new__(FlowEnded)
    PyObject_GenericSetAttr(event, "flow_id", flow.id)
    PyObject_GenericSetAttr(event, "count", count)
    return event


cdef object received_result(machine, flow, const unsigned char* at, int64_t length):
    if flow.state is not ENDED or flow.kept is not None or not COUNTS < length <= QUICK:
        return None
    consumed, sent = number64(at), flow.receive._peer.sent_packets
    if number64(at + 8) != <uint64_t>sent or consumed > flow.send.sent_packets:
        return None
    fields = PyBytes_FromStringAndSize(<const char*>at + COUNTS, length - COUNTS)
    try:
        status, value, error = decode_outcome(fields, machine._packet_bounds)
    except RemoteProtocolError:
        return None
    flow.state = CLOSED
    del machine._flows[flow.id]
    event = ResultReceived.__new__(ResultReceived)
    PyObject_GenericSetAttr(event, "flow_id", flow.id)
    PyObject_GenericSetAttr(event, "consumed", consumed)
    PyObject_GenericSetAttr(event, "status", status)
    PyObject_GenericSetAttr(event, "value", value)
    PyObject_GenericSetAttr(event, "error", error)
    return event


def send(machine, flow, kind, bytes payload):
    following = MOVES.get((flow.state, kind))
    if following is None or flow.kept is not None or machine.role not in SENDERS[kind]:
        return False
    cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
    if size >= LARGE:
        return False
    flow.state = following
    frame = PyBytes_FromStringAndSize(NULL, HEAD + size)
    cdef unsigned char* at = <unsigned char*>PyBytes_AS_STRING(frame)
    write32(at, size)
    at[4] = kind
    write32(at + 5, flow.id)
    memcpy(at + HEAD, PyBytes_AS_STRING(payload), size)
    machine._out.append(frame)
    if following is CLOSED:
        del machine._flows[flow.id]
        machine._trusted.discard(flow.id)
    return True


def send_packet(machine, identity, pending):
    packet, flow = pending[0], machine._flows.get(identity)
    if flow is None or flow.state is not STREAMING:
        return False
    cdef bint in_run = type(packet) is not bytes
    if in_run and not (isinstance(packet, Run) and packet.packets == 1):
        return False
    if not flow.trusted and machine._peer_first is not None:
        return False
    cdef int64_t size = packet.next_size if in_run else PyBytes_GET_SIZE(packet)
    if size >= LARGE or size > <int64_t>machine._peer_max_packet:
        return False
    if size > <int64_t>machine._packet_bounds.harmless:
        return False
    window = flow.send
    cdef int64_t first = window.sent_packets, before = window.sent_bytes
    if first >= saturated(window.packets_limit) or size > saturated(window.bytes_limit) - before:
        return False
    if in_run:
        packet = packet.take(1, size)[1]
    pending.popleft()
    frame = PyBytes_FromStringAndSize(NULL, HEAD + BATCH + size)
    cdef unsigned char* at = <unsigned char*>PyBytes_AS_STRING(frame)
    write32(at, BATCH + size)
    at[4] = machine._batch_frame
    write32(at + 5, identity)
    write32(at + 9, first >> 32)
    write32(at + 13, first)
    at[17] = ARRAY32
    write32(at + 18, 1)
    memcpy(at + HEAD + BATCH, PyBytes_AS_STRING(packet), size)
    machine._out.append(frame)
    window.sent_packets = first + 1
    window.sent_bytes = before + size
    if flow.kept is not None:
        flow.kept.add(1, [packet], size)
    return True


cdef inline object first_chunk(parser):
    """Return the bytes that begin with the next frame; None where it is put together elsewhere."""
    chunks = parser._chunks
    if not chunks or parser._buffer is not None:
        return None
    chunk = chunks[0]
    return chunk if type(chunk) is bytes else None


cdef int advance(parser, int kind, int64_t there, int64_t size) except -1:
    """Go on behind a frame of *size* bytes, of which so many or more are *there*."""
    parser.frames += 1
    parser._needed = HEAD
    parser.pending -= size
    if there == size:
        parser._chunks.popleft()
        parser._at = 0
    else:
        parser._at += size
    if parser._spares:
        parser._let_go(kind)
    return 0


cdef inline int64_t saturated(limit) except? -1:
    """Return *limit*, or the most that there is where somebody allows more than that."""
    cdef int overflow = 0
    cdef int64_t found = PyLong_AsLongLongAndOverflow(limit, &overflow)
    return INT64_MAX if overflow > 0 else found


cdef inline uint32_t number32(const unsigned char* at) noexcept:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef inline uint64_t number64(const unsigned char* at) noexcept:
    return <uint64_t>number32(at) << 32 | number32(at + 4)


cdef inline void write32(unsigned char* at, uint32_t number) noexcept:
    at[0] = number >> 24
    at[1] = number >> 16
    at[2] = number >> 8
    at[3] = number
