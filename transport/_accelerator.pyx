# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The codec's innermost loops, compiled: the same bytes, values and errors, only sooner.

Everything ordinary is done here. What is not (a rare type, a value that cannot travel, bytes that
are malformed, anything too long or too deep) is left, whole, to the codec in Python, which alone
says what happens then.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.datetime cimport (
    PyDateTime_DATE_GET_FOLD, PyDateTime_DATE_GET_HOUR, PyDateTime_DATE_GET_MICROSECOND,
    PyDateTime_DATE_GET_MINUTE, PyDateTime_DATE_GET_SECOND, PyDateTime_GET_DAY,
    PyDateTime_GET_MONTH, PyDateTime_GET_YEAR, datetime_new, datetime_tzinfo, get_utc,
    import_datetime,
)
from cpython.dict cimport PyDict_Next, PyDict_SetItem, PyDict_Size, PyDict_Update
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE, PyList_New, PyList_SET_ITEM, PyList_SetItem
from cpython.object cimport Py_TYPE, PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy

import datetime
import decimal
import uuid
from collections import deque
from itertools import repeat

from pyf.transport import codec, intake, limits, packet as packets, pieces

cdef extern from "Python.h":
    object PyUnicode_DecodeUTF8(const char* text, Py_ssize_t size, const char* errors)
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    object PyUnicode_AsUTF8String(object text)
    bint PyUnicode_IS_ASCII(object text)
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    void* PyUnicode_DATA(object text)
    object PyUnicode_DecodeASCII(const char* text, Py_ssize_t size, const char* errors)
    object PyObject_GenericGetAttr(object where, object name)
    int PyObject_GenericSetAttr(object where, object name, object value) except -1
    void PyObject_GC_UnTrack(void* value)
    bint PyObject_GC_IsTracked(object value)
    int PY_VERSION_HEX
    Py_ssize_t PY_SSIZE_T_MAX
    void PyObject_GC_Track(void* value)
    uint32_t PyUnicode_MAX_CHAR_VALUE(object text)
    object PyUnicode_New(Py_ssize_t length, uint32_t most)
    Py_ssize_t PyUnicode_CopyCharacters(
        object to, Py_ssize_t at, object text, Py_ssize_t start, Py_ssize_t length
    ) except -1
    object PyUnicode_DecodeUTF8Stateful(
        const char* text, Py_ssize_t size, const char* errors, Py_ssize_t* consumed
    )
    uint32_t PyUnicode_READ_CHAR(object text, Py_ssize_t at)
    PyObject* PyDict_GetItemWithError(object where, object key) except? NULL
    PyObject* _PyType_Lookup(PyTypeObject* kind, object name) noexcept
    void PyType_Modified(type kind)
    ctypedef object (*Read "binaryfunc")(object, object)
    ctypedef int (*Write "setattrofunc")(object, object, PyObject*) except -1
    ctypedef int (*Set "descrsetfunc")(object, object, object) except -1
    ctypedef int (*Contains "objobjproc")(object, object) except -1
    ctypedef struct OfMapping "PyMappingMethods":
        Read mp_subscript
    ctypedef struct OfSequence "PySequenceMethods":
        Contains sq_contains
    ctypedef struct Slots "PyTypeObject":
        Read tp_getattro
        Write tp_setattro
        Set tp_descr_set
        OfMapping* tp_as_mapping
        OfSequence* tp_as_sequence

cdef extern from *:
    """
    #if PY_VERSION_HEX < 0x030D0000
    #define station_write_bytes(number, at, size) \\
        _PyLong_AsByteArray((PyLongObject*)(number), at, size, 0, 0)
    #else
    #define station_write_bytes(number, at, size) \\
        _PyLong_AsByteArray((PyLongObject*)(number), at, size, 0, 0, 1)
    #endif
    """
    int write_bytes "station_write_bytes"(object, unsigned char*, size_t) except -1
    object _PyLong_FromByteArray(const unsigned char*, size_t, int, int)

import_datetime()

cdef enum:
    ROOM = 2048  # bytes on the stack, where most packets end
    ROW = 1024  # packets of a run
    MOST_IN_RUN = 256  # bytes of one of them: from there on, copying costs more than an object
    HEAD = 9  # bytes of the longest head of a value, or number
    SHORT = 32  # bytes from which on the size of a text is not part of its head
    FIELD = SHORT + HEAD + SHORT  # bytes of a field that has no others, at the most
    LARGE = 4096  # bytes of one value, which Python's codec copies less often
    WIDE = 65536  # elements of a container that are left to it
    DEPTH = 128  # levels of C calls that any thread's stack has room for
    KEYS = 1024  # names that are known: 10 bits
    MANY = 12  # fields of a packet
    FORMS = 8  # sets of names that are tried in a frame
    BREATH = 1024  # values
    EACH = 64  # bytes of an extension that count as a value
    PIECE = 1 << 20  # bytes of a text that are decoded at once
    LONGEST_KEY = 32
    BIG_INTEGER = 1
    DECIMAL = 2
    MOMENT = 3
    IDENTIFIER = 7

# Names of C, which cost no look into a dict.
cdef type Packet = packets.Packet
cdef type DateTime = datetime.datetime
cdef type Decimal = decimal.Decimal
cdef type UUID = uuid.UUID
cdef object UNKNOWN = uuid.SafeUUID.unknown
cdef object NUMBER = vars(uuid.UUID)["int"]
cdef object SAFETY = vars(uuid.UUID)["is_safe"]
cdef Slots* NUMBER_SLOT = <Slots*>Py_TYPE(NUMBER)
cdef Slots* SAFETY_SLOT = <Slots*>Py_TYPE(SAFETY)
cdef object UTC = get_utc()
# As Decimal does, which takes longer to look at its arguments. What signals is not for here.
cdef object make_decimal = decimal.Context(
    prec=decimal.MAX_PREC,
    Emin=decimal.MIN_EMIN,
    Emax=decimal.MAX_EMAX,
    traps=list(decimal.Context().flags),
).create_decimal
cdef object take_last = list.pop
cdef tuple NOTHING = ()
cdef dict EXTENSIONS = codec._BY_TYPE
cdef Py_ssize_t MOST_DIGITS = limits.MAX_NUMBER
cdef Py_ssize_t ROUND = intake.EACH  # bytes around a packet
cdef Py_ssize_t FULL = limits.BATCH_BYTES  # of a run
cdef Py_ssize_t MOST_JOINED = limits.LARGE
cdef Py_ssize_t MOST_SENT = <Py_ssize_t>1 << 32
cdef Py_ssize_t MOST_COPIED = codec.census.QUICK_COPY
cdef Py_ssize_t QUICK = codec.census.QUICK_VALUES // BREATH  # breaths that are soon taken
cdef Py_ssize_t QUICK_LENGTH = codec.census.QUICK_LENGTH
cdef uint64_t QUICK_NUMBER = codec.census.QUICK_NUMBER


# Fields of packets

cdef Slots* slots = <Slots*>Packet
cdef Read read_slowly = slots.tp_getattro
cdef Write write_slowly = slots.tp_setattro


cdef object read_field(object packet, object name):
    """Return an attribute: at once, if it is a field that ``Packet.__getattr__`` returns as it is."""
    cdef PyObject* value
    if _PyType_Lookup(Py_TYPE(packet), name) != NULL:
        return PyObject_GenericGetAttr(packet, name)
    if not is_special(name):
        value = PyDict_GetItemWithError(packet, name)
        if value != NULL and type(<object>value) is not dict and type(<object>value) is not list:
            return <object>value
    return read_slowly(packet, name)


cdef int write_field(object packet, object name, PyObject* value) except -1:
    """Set or delete an attribute: at once, if it is a field that has a value now."""
    if value == NULL or _PyType_Lookup(Py_TYPE(packet), name) != NULL or is_special(name):
        return write_slowly(packet, name, value)
    return PyDict_SetItem(packet, name, <object>value)


cdef inline bint is_special(object name) noexcept:
    return (
        PyUnicode_GET_LENGTH(name) > 1
        and PyUnicode_READ_CHAR(name, 0) == 95
        and PyUnicode_READ_CHAR(name, 1) == 95
    )


# Subclasses are as Python makes them. A class of Python's would look up what to call for each of
# these, even where it is dict's own.
slots.tp_getattro, slots.tp_setattro = read_field, write_field
slots.tp_as_mapping.mp_subscript = (<Slots*>dict).tp_as_mapping.mp_subscript
slots.tp_as_sequence.sq_contains = (<Slots*>dict).tp_as_sequence.sq_contains
PyType_Modified(Packet)


# Values to bytes

cdef struct Buffer:
    unsigned char* data
    Py_ssize_t size
    Py_ssize_t room
    unsigned char* grown  # what is to be freed, if it has outgrown the stack


def encode_packet(packet):
    """Return *packet* as one MessagePack map; see ``pyf.transport.codec.encode_packet``."""
    return encode(packet)


cdef class Run:
    """Small packets in a row; see ``pyf.transport.pieces.Run``."""

    cdef Buffer out
    cdef Py_ssize_t taken
    cdef int first
    cdef int last
    cdef bint closed
    cdef uint16_t sizes[ROW]

    def __cinit__(self):
        self.out.data = self.out.grown = <unsigned char*>malloc(ROOM)
        if self.out.grown == NULL:
            raise MemoryError
        self.out.room = ROOM

    def __dealloc__(self):
        free(self.out.grown)

    def __len__(self):
        return self.out.size - self.taken

    @property
    def packets(self):
        return self.last - self.first

    @property
    def next_size(self):
        return self.sizes[self.first]

    def take(self, Py_ssize_t packets, Py_ssize_t room):
        cdef Py_ssize_t size = 0
        cdef int first = self.first, last = self.first
        while last < self.last and last - first < packets and size + self.sizes[last] <= room:
            size += self.sizes[last]
            last += 1
        data = PyBytes_FromStringAndSize(<char*>self.out.data + self.taken, size)
        self.first, self.taken = last, self.taken + size
        self.closed |= last > first
        if last == self.last:  # Whoever added to it may keep it for long.
            free(self.out.grown)
            self.out.grown = NULL
        return last - first, data

    cdef bint add(self, const Buffer* packet) except -1:
        """Add a packet, and return True, unless the run is full or somebody has taken from it."""
        if self.closed or self.last == ROW or self.out.size + packet.size > FULL:
            return False
        put_bytes(&self.out, packet.data, packet.size)
        self.sizes[self.last] = <uint16_t>packet.size
        self.last += 1
        return True


cdef inline Py_ssize_t last_size(object data) except -1:
    """Return the bytes of the packet that is *data*, or was added to it last."""
    if type(data) is Run:
        return (<Run>data).sizes[(<Run>data).last - 1]
    return PyBytes_GET_SIZE(data) if type(data) is bytes else len(data)


pieces.Run.register(Run)


def packets_in(pending):
    """Return how many packets wait in *pending*; see ``pyf.transport.pieces.packets_in``."""
    cdef Py_ssize_t count = 0
    for each in pending:  # No other thread runs meanwhile: nothing here is Python's.
        count += (<Run>each).last - (<Run>each).first if type(each) is Run else 1
    return count


cdef class encode_each:
    """Iterator of the packets of *source*, encoded; see ``pyf.transport.codec.encode_each``.

    Of several that are small it gives a Run, which the next ones are added to.
    """

    cdef list gate
    cdef object source
    cdef Run run
    cdef Py_ssize_t most
    cdef Py_ssize_t at
    cdef Py_ssize_t room

    def __init__(self, list gate, source, Py_ssize_t room):
        self.gate, self.source, self.at, self.room = gate, iter(source), 0, room
        self.most = MOST_IN_RUN if PyList_GET_SIZE(gate) > 1 else -1

    def __iter__(self):
        return self

    def __next__(self):
        while self.at < PyList_GET_SIZE(self.gate):
            self.at += 1
            data = encode_behind(self.run, next(self.source), self.most)
            self.room -= last_size(data)
            if self.room <= 0:
                self.gate.clear()
            if data is not self.run:
                self.run = data if type(data) is Run else None
                return data
        raise StopIteration


cdef class Intake:
    """The front of a queue of packets; see ``pyf.transport.intake.Intake``."""

    cdef readonly object pending
    cdef object append
    cdef Run run
    cdef public Py_ssize_t space
    cdef public Py_ssize_t most
    cdef public bint bulky
    cdef public bint resting
    cdef public object on_full
    cdef public object done

    def __init__(self, Py_ssize_t space, Py_ssize_t most):
        self.pending, self.space, self.most = deque(), space, most
        self.append = self.pending.append
        self.bulky, self.resting, self.on_full = False, True, bool

    def put(self, packet):
        """Add a packet; return ``done``, or what ``on_full()`` returns where there is no room left."""
        return self.on_full() if self.take(packet) else self.done

    def add(self, packet):
        """Add a packet; return whether to wait before the next."""
        return self.take(packet)

    cdef bint take(self, packet) except -1:
        # One that somebody has to be woken for may well stay the only one.
        cdef Py_ssize_t size, most = min(MOST_IN_RUN, self.most, self.space - ROUND)
        if self.resting:
            most = -1
        run = self.run  # Another thread may replace it while a value is encoded by Python.
        data = encode_pieces(packet) if self.bulky else encode_behind(run, packet, most)
        size = last_size(data)
        # What is in a run has been added, whatever others have done to the space meanwhile.
        if type(data) is not Run and (size > self.most or size > self.space - ROUND):
            full = self.add_slowly(data)
            self.run = None
            return full
        self.space -= size + ROUND
        if data is not run:
            self.append(data)
            self.run = data if type(data) is Run else None
        if self.resting:
            self.stir()
        return False


cdef class Speaker:
    """What puts packets into an ``_outbox``; see ``pyf.transport.intake.Speaker``."""

    cdef public Intake _outbox

    @cython.binding(False)  # Python calls what is plain in C without a detour.
    @cython.nonecheck(True)
    def message(self, packet, /):
        return self._outbox.on_full() if self._outbox.take(packet) else self._outbox.done


cdef object NOTHING_LEFT = iter(())


cdef class Done:
    """A coroutine that has nothing to wait for; see ``pyf.transport.intake.Done``."""

    def send(self, value):
        raise StopIteration

    def throw(self, *error):
        raise error[0]

    def close(self):
        pass

    def __await__(self):
        return NOTHING_LEFT


cdef object encode(object packet):
    return encode_behind(None, packet, -1)


cdef object encode_behind(Run run, object packet, Py_ssize_t most):
    """Add *packet* to *run*, or to a new one, and return that; bytes, if it has more than *most*,
    which is MOST_IN_RUN or less.

    Nobody else's code runs from the moment that it is encoded: a run is added to in one step.
    """
    cdef unsigned char stack[ROOM]
    cdef Buffer out
    out.data, out.size, out.room, out.grown = stack, 0, ROOM, NULL
    try:
        if is_map(packet) and put_map(&out, packet, 1):
            if out.size > most:
                return PyBytes_FromStringAndSize(<char*>out.data, out.size)
            if run is None or not run.add(&out):
                run = Run()
                run.add(&out)
            return run
    except Exception:
        pass  # Python's codec finds out why.
    finally:
        free(out.grown)
    return codec.encode_packet(packet)


cdef inline bint is_map(object value) noexcept:
    return type(value) is dict or type(value) is Packet


def encode_pieces(packet):
    """Return *packet*, its large values uncopied; see ``pyf.transport.pieces.encode_pieces``."""
    cdef unsigned char stack[ROOM]
    cdef Buffer out
    cdef list buffers = []
    out.data, out.size, out.room, out.grown = stack, 0, ROOM, NULL
    try:
        if is_map(packet) and put_pieces(&out, packet, buffers):
            if out.size:
                buffers.append(PyBytes_FromStringAndSize(<char*>out.data, out.size))
            return buffers[0] if len(buffers) == 1 else pieces.Pieces(buffers)
    except Exception:
        pass  # Python's codec finds out why.
    finally:
        free(out.grown)
    return pieces.encode_pieces(packet)


cdef bint put_pieces(Buffer* out, object packet, list buffers) except -1:
    """Do as ``put_map``, but put large values into *buffers*, each behind what comes before it."""
    cdef Py_ssize_t at = 0, size, count = PyDict_Size(packet), left = count
    cdef PyObject* key
    cdef PyObject* item
    cdef unsigned char head
    if count >= WIDE:
        return False
    put_count(out, count, 0x80, 0xDE)
    while PyDict_Next(packet, &at, &key, &item):
        left -= 1
        if type(<object>key) is not str or not put_text(out, <object>key):
            return False
        kind = type(<object>item)
        if kind is bytes:
            size, head = PyBytes_GET_SIZE(<object>item), 0xC5
        elif kind is str:
            size, head = PyUnicode_GET_LENGTH(<object>item), 0xDA
        else:
            size = 0
        if size < MOST_JOINED:
            if not put(out, <object>item, 1):
                return False
            continue
        value = <object>item if kind is bytes else PyUnicode_AsUTF8String(<object>item)
        size = PyBytes_GET_SIZE(value)
        if size >= MOST_SENT:
            return False
        reserve(out, HEAD)
        if size < WIDE:
            put_number(out, head, size, 2)
        else:
            put_number(out, head + 1, size, 4)
        buffers.append(PyBytes_FromStringAndSize(<char*>out.data, out.size))
        buffers.append(value)
        out.size = 0
    return left == 0


cdef inline int reserve(Buffer* out, Py_ssize_t more) except -1:
    if out.size + more > out.room:
        grow(out, more)
    return 0


cdef int grow(Buffer* out, Py_ssize_t more) except -1:
    cdef Py_ssize_t room = 2 * (out.room + more)
    cdef unsigned char* grown = <unsigned char*>realloc(out.grown, room)
    if grown == NULL:
        raise MemoryError
    if out.grown == NULL:
        memcpy(grown, out.data, out.size)
    out.data, out.grown, out.room = grown, grown, room
    return 0


cdef inline void put_head(Buffer* out, unsigned char head) noexcept:
    out.data[out.size] = head
    out.size += 1


cdef inline void put_number(Buffer* out, unsigned char head, uint64_t number, int width) noexcept:
    """Write *head*, and the last *width* bytes of *number*; there must be room for HEAD bytes."""
    out.size = write_number(out.data + out.size, head, number, width) - out.data


# Where bytes are written one after another, the place is kept in a register: in a Buffer it would
# be read anew behind each of them, since any byte could be part of it.

cdef inline unsigned char* write_number(
    unsigned char* at, unsigned char head, uint64_t number, int width
) noexcept:
    """Write *head*, and the last *width* bytes of *number*, at least one; return where they end.

    There must be room for HEAD bytes, since they are written as one.
    """
    number <<= 64 - 8 * width
    at[0] = head
    at[1], at[2], at[3], at[4] = number >> 56, number >> 48, number >> 40, number >> 32
    at[5], at[6], at[7], at[8] = number >> 24, number >> 16, number >> 8, number
    return at + 1 + width


cdef inline unsigned char* write_integer(unsigned char* at, int64_t number) noexcept:
    if -32 <= number < 128:
        at[0] = <unsigned char>number
        return at + 1
    if number > 0:
        if number < 1 << 8:
            return write_number(at, 0xCC, number, 1)
        if number < 1 << 16:
            return write_number(at, 0xCD, number, 2)
        if number < <int64_t>1 << 32:
            return write_number(at, 0xCE, number, 4)
        return write_number(at, 0xCF, number, 8)
    if number >= -(1 << 7):
        return write_number(at, 0xD0, number, 1)
    if number >= -(1 << 15):
        return write_number(at, 0xD1, number, 2)
    if number >= -(<int64_t>1 << 31):
        return write_number(at, 0xD2, number, 4)
    return write_number(at, 0xD3, number, 8)


cdef inline unsigned char* write_short(unsigned char* at, object text) noexcept:
    """Write a text that ``is_short``; to call memcpy for it would take longer than to copy it."""
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text)
    cdef const char* data = <const char*>PyUnicode_DATA(text)
    at[0] = <unsigned char>(0xA0 + size)
    at += 1
    if size >= 8:
        if size > 16:
            memcpy(at + 8, data + 8, 8)
            memcpy(at + size - 16, data + size - 16, 8)
        memcpy(at, data, 8)
        memcpy(at + size - 8, data + size - 8, 8)
    elif size >= 4:
        memcpy(at, data, 4)
        memcpy(at + size - 4, data + size - 4, 4)
    elif size:
        at[0], at[size >> 1], at[size - 1] = data[0], data[size >> 1], data[size - 1]
    return at + size


cdef inline bint is_short(object value) noexcept:
    """Whether *value* is a text of ASCII characters whose size is part of its head."""
    return (
        type(value) is str and PyUnicode_IS_COMPACT_ASCII(value) and PyUnicode_GET_LENGTH(value) < SHORT
    )


cdef inline int put_bytes(Buffer* out, const void* data, Py_ssize_t size) except -1:
    reserve(out, size)
    memcpy(out.data + out.size, data, size)
    out.size += size
    return 0


# Each returns whether it is done; if not, nothing of what was written counts.

cdef bint put(Buffer* out, object value, int depth) except -1:
    cdef PyTypeObject* kind = Py_TYPE(value)
    reserve(out, HEAD)
    if kind == <PyTypeObject*>str:
        return put_text(out, value)
    if kind == <PyTypeObject*>int:
        out.size = write_integer(out.data + out.size, value) - out.data  # Raises if it is beyond.
        return True
    if value is None:
        put_head(out, 0xC0)
    elif value is True:
        put_head(out, 0xC3)
    elif value is False:
        put_head(out, 0xC2)
    elif kind == <PyTypeObject*>float:
        put_real(out, value)
    elif kind == <PyTypeObject*>bytes:
        return put_raw(out, value)
    elif kind == <PyTypeObject*>dict or kind == <PyTypeObject*>Packet:
        return put_map(out, value, depth + 1)
    elif kind == <PyTypeObject*>list:
        return put_list(out, value, depth + 1)
    elif kind == <PyTypeObject*>tuple:
        return put_tuple(out, value, depth + 1)
    elif kind == <PyTypeObject*>Decimal:
        return put_decimal(out, value)
    elif kind == <PyTypeObject*>DateTime:
        return put_moment(out, value)
    elif kind == <PyTypeObject*>UUID:
        reserve(out, HEAD + 16)
        put_number(out, 0xD8, IDENTIFIER, 1)
        write_bytes(value.int, out.data + out.size, 16)
        out.size += 16
    else:
        return put_extension(out, value)
    return True


cdef inline bint put_text(Buffer* out, object value) except -1:
    cdef Py_ssize_t size
    cdef const char* text
    if PyUnicode_IS_COMPACT_ASCII(value):
        text, size = <const char*>PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value)
    else:
        text = PyUnicode_AsUTF8AndSize(value, &size)
    if size > LARGE:
        return False
    reserve(out, HEAD)
    if size < SHORT:
        put_head(out, <unsigned char>(0xA0 + size))
    elif size < 256:
        put_number(out, 0xD9, size, 1)
    else:
        put_number(out, 0xDA, size, 2)
    put_bytes(out, text, size)
    return True


cdef inline bint put_raw(Buffer* out, object value) except -1:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
    if size > LARGE:
        return False
    if size < 256:
        put_number(out, 0xC4, size, 1)
    else:
        put_number(out, 0xC5, size, 2)
    put_bytes(out, PyBytes_AS_STRING(value), size)
    return True


cdef inline void put_real(Buffer* out, double value) noexcept:
    cdef uint64_t bits
    memcpy(&bits, &value, 8)
    put_number(out, 0xCB, bits, 8)


cdef inline void put_count(Buffer* out, Py_ssize_t count, unsigned char few, unsigned char many) noexcept:
    if count < 16:
        put_head(out, <unsigned char>(few + count))
    else:
        put_number(out, many, count, 2)


cdef bint put_map(Buffer* out, object value, int depth) except -1:
    cdef Py_ssize_t at = 0, count = PyDict_Size(value), left = count
    cdef PyObject* key
    cdef PyObject* item
    cdef unsigned char* end
    if count >= WIDE or depth > DEPTH:
        return False
    put_count(out, count, 0x80, 0xDE)
    while PyDict_Next(value, &at, &key, &item):
        left -= 1
        reserve(out, FIELD)
        end = out.data + out.size
        if is_short(<object>key):
            end = write_short(end, <object>key)
        elif type(<object>key) is not str or not put_text(out, <object>key):
            return False
        else:
            reserve(out, FIELD)
            end = out.data + out.size
        # What is most often there, without a call.
        if type(<object>item) is int:
            out.size = write_integer(end, <object>item) - out.data
        elif is_short(<object>item):
            out.size = write_short(end, <object>item) - out.data
        else:
            out.size = end - out.data
            if not put(out, <object>item, depth):
                return False
    return left == 0  # An extension may have run code that changed it.


cdef bint put_list(Buffer* out, object value, int depth) except -1:
    cdef Py_ssize_t at = 0, count = PyList_GET_SIZE(value)
    if count >= WIDE or depth > DEPTH:
        return False
    put_count(out, count, 0x90, 0xDC)
    while at < PyList_GET_SIZE(value):
        if not put(out, <object>PyList_GET_ITEM(value, at), depth):
            return False
        at += 1
    return at == count


cdef bint put_tuple(Buffer* out, object value, int depth) except -1:
    cdef Py_ssize_t at, count = PyTuple_GET_SIZE(value)
    if count >= WIDE or depth > DEPTH:
        return False
    put_count(out, count, 0x90, 0xDC)
    for at in range(count):
        if not put(out, <object>PyTuple_GET_ITEM(value, at), depth):
            return False
    return True


cdef bint put_extension(Buffer* out, object value) except -1:
    extension = EXTENSIONS.get(type(value))
    if extension is None:
        return False
    data = extension.encode(value)
    return put_tagged(out, extension.tag, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef bint put_tagged(Buffer* out, int tag, const char* data, Py_ssize_t size) except -1:
    if size > LARGE:
        return False
    reserve(out, size + HEAD)
    if size in (1, 2, 4, 8, 16):
        put_number(out, 0xD4 + (size > 1) + (size > 2) + (size > 4) + (size > 8), tag, 1)
    elif size < 256:
        put_number(out, 0xC7, size << 8 | tag, 2)
    else:
        put_number(out, 0xC8, size << 8 | tag, 3)
    memcpy(out.data + out.size, data, size)
    out.size += size
    return True


cdef bint put_decimal(Buffer* out, object value) except -1:
    cdef Py_ssize_t size
    text = str(value)
    cdef const char* data = PyUnicode_AsUTF8AndSize(text, &size)
    return put_tagged(out, DECIMAL, data, size)


cdef inline void write_digits(char* at, int number, int width) noexcept:
    while width:
        width -= 1
        at[width] = 48 + number % 10
        number //= 10


cdef bint put_moment(Buffer* out, object value) except -1:
    cdef char text[40]
    cdef int size = 20, micros = PyDateTime_DATE_GET_MICROSECOND(value)
    zone = datetime_tzinfo(value)
    if zone is not None and zone is not UTC:
        return put_extension(out, value)
    memcpy(text, "\0    -  -  T  :  :  .      +00:00", 33)
    text[0] = PyDateTime_DATE_GET_FOLD(value)
    write_digits(text + 1, PyDateTime_GET_YEAR(value), 4)
    write_digits(text + 6, PyDateTime_GET_MONTH(value), 2)
    write_digits(text + 9, PyDateTime_GET_DAY(value), 2)
    write_digits(text + 12, PyDateTime_DATE_GET_HOUR(value), 2)
    write_digits(text + 15, PyDateTime_DATE_GET_MINUTE(value), 2)
    write_digits(text + 18, PyDateTime_DATE_GET_SECOND(value), 2)
    if micros:
        write_digits(text + 21, micros, 6)
        size = 27
    if zone is not None:
        memcpy(text + size, "+00:00", 6)
        size += 6
    return put_tagged(out, MOMENT, text, size)


# Bytes to values

cdef struct Reader:
    const unsigned char* at
    const unsigned char* end
    Py_ssize_t owed  # values that have been announced and not been read: a byte each at least
    Py_ssize_t breath  # what may be done before other threads have a turn
    Py_ssize_t breaths  # how many of them may be taken
    bint holds  # whether a value was taken that may hold others


cdef class _Beyond(Exception):
    """What is not for here."""


cdef class _Heavy(Exception):
    """What takes longer than it may."""


def decode_maps(data, Py_ssize_t count, bounds=codec.BOUNDS):
    """Return the *count* packets in *data*; see ``pyf.transport.codec.decode_maps``."""
    codec.census.check(data, bounds)
    try:
        return decode_packets(data, count, PY_SSIZE_T_MAX)
    except Exception:
        return codec.decode_maps(data, count, bounds)  # It finds out why.


def decode_quickly(data, Py_ssize_t count, bounds=codec.BOUNDS):
    """Return the packets if that is soon done; see ``pyf.transport.codec.decode_quickly``."""
    if len(data) > MOST_COPIED:
        return None
    codec.census.check(data, bounds)
    # It is begun, and given up if it takes long: to look before would take a tenth of its time.
    try:
        return decode_packets(data, count, QUICK if len(data) <= QUICK_LENGTH else QUICK // 2)
    except _Heavy:
        return None
    except Exception:
        return codec.decode_quickly(data, count, bounds)


cdef object decode_packets(data, Py_ssize_t count, Py_ssize_t breaths):
    cdef Py_buffer view
    cdef Reader reader
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        begin(&reader, &view, breaths)
        return take_packets(&reader, count)
    finally:
        PyBuffer_Release(&view)


def decode(data, bounds=codec.BOUNDS):
    """Return the one value in *data*; see ``pyf.transport.codec.decode``."""
    cdef Py_buffer view
    cdef Reader reader
    codec.census.check(data, bounds)
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        begin(&reader, &view, PY_SSIZE_T_MAX)
        reader.owed = 1
        value = take(&reader, 0)
        if reader.at == reader.end:
            remember(value)
            return value
    except Exception:
        pass  # Python's codec finds out why.
    finally:
        PyBuffer_Release(&view)
    return codec.decode(data, bounds)


def frozen(kind, **facts):
    """Return an object of the frozen dataclass *kind*, of all its fields: as that does itself."""
    made = kind.__new__(kind)
    for name, value in facts.items():
        PyObject_GenericSetAttr(made, name, value)
    return made


def decode_fields(data, dict schema, bounds=codec.BOUNDS):
    """Return the fields of *schema* in *data*; see ``pyf.transport.codec.decode_fields``."""
    fields = decode(data, bounds)
    if type(fields) is not dict:
        return None
    cdef dict found = {}
    for name, types in schema.items():
        value = (<dict>fields).get(name)
        if type(value) not in types:
            return None
        found[name] = value
    return found


cdef inline void begin(Reader* reader, Py_buffer* view, Py_ssize_t breaths) noexcept:
    reader.at = <const unsigned char*>view.buf
    reader.end = reader.at + view.len
    reader.owed = 0
    reader.breath, reader.breaths, reader.holds = BREATH, breaths, False


cdef object take_packets(Reader* reader, Py_ssize_t count):
    cdef Py_ssize_t index, forms = 0
    cdef uint64_t fields
    cdef unsigned char head
    cdef dict form = {}
    if skip(reader, 1)[0] != 0xDD or take_number(reader, 4) != <uint64_t>count:
        raise _Beyond
    owe(reader, count)
    found = PyList_New(count)
    PyObject_GC_UnTrack(<void*>found)  # Until it is whole, nobody is to find it.
    for index in range(count):
        head = take_byte(reader)
        packet = make(Packet)
        if 0x80 <= head < 0x90:
            fields = head & 15
        elif head == 0xDE:
            fields = take_number(reader, 2)
        else:
            raise _Beyond
        if fields < MANY or not take_form(reader, packet, fields, form):
            take_map(reader, packet, fields, 1)
            if fields >= MANY and forms < FORMS:
                form, forms = dict.fromkeys(packet), forms + 1
        forget(packet)  # Not before: Python would look at each value, whether it is one to look at.
        Py_INCREF(packet)
        PyList_SET_ITEM(found, index, packet)
    PyObject_GC_Track(<void*>found)
    if reader.at != reader.end:
        raise _Beyond
    if not reader.holds:
        return found
    whole = Nested.__new__(Nested)
    whole.extend(found)
    return whole


# What Python's garbage collector looks at. A frame's packets would take it longer than decoding
# them, since it looks again and again at what waits. They are trees, so there is nothing to find
# until somebody has them.

cdef class Nested(list):
    """Packets that nobody has yet, some of which hold what may hold others: for ``unroll`` alone."""


cdef class _Given:
    """Gives the packets of such a list away, each to be looked at by the collector from then on."""

    cdef object packets
    cdef Py_ssize_t at

    def __init__(self, Nested packets):
        self.packets = packets

    def __iter__(self):
        return self

    def __length_hint__(self):
        return PyList_GET_SIZE(self.packets) - self.at

    def __next__(self):
        if self.at == PyList_GET_SIZE(self.packets):
            raise StopIteration
        packet = <object>PyList_GET_ITEM(self.packets, self.at)
        Py_INCREF(None)
        PyList_SetItem(self.packets, self.at, None)  # It goes with whoever drops it.
        self.at += 1
        remember(packet)
        return packet


def unroll(maps):
    """Return iterators of Packets and of how many are left; see ``pyf.transport.codec.unroll``."""
    if type(maps) is Nested:
        given = _Given(maps)
        return given, given
    if maps and type(maps[0]) is Packet:
        made = iter(maps)
        return made, made
    maps.reverse()
    left = repeat(maps, len(maps))
    return left, map(Packet, map(take_last, left))


cdef inline void forget(object container) noexcept:
    """Have the collector not look at *container*, or not any more.

    That is for good where it holds nothing that holds others, as with any dict, except that Python
    itself does so for no subclass. Once it is given something else to hold, it tells of itself.
    """
    if PY_VERSION_HEX < 0x030E0000:
        PyObject_GC_UnTrack(<void*>container)


cdef bint remember(object value) except -1:
    """Have the collector look at what holds others in *value*; return whether it is of that kind."""
    cdef Py_ssize_t at = 0
    cdef PyObject* name
    cdef PyObject* item
    cdef bint holds = False
    if type(value) is list:
        holds = True
        for at in range(PyList_GET_SIZE(value)):
            remember(<object>PyList_GET_ITEM(value, at))
    elif is_map(value):
        while PyDict_Next(value, &at, &name, &item):
            if remember(<object>item):
                holds = True
    else:  # From Python 3.13 on it looks at Decimals, which hold no others all the same.
        return PyObject_GC_IsTracked(value) and type(value) is not Decimal
    if holds and not PyObject_GC_IsTracked(value):
        PyObject_GC_Track(<void*>value)
    return True


cdef bint take_form(Reader* reader, object packet, uint64_t count, dict form) except -1:
    """Put a map of the same names as *form* into *packet*, an empty one; return whether it is such.

    To copy a dict of many names and change its values takes half as long as to let one grow.
    """
    cdef Reader before = reader[0]
    cdef Py_ssize_t at = 0
    cdef PyObject* name
    cdef PyObject* item
    if <uint64_t>PyDict_Size(form) != count:
        return False
    owe(reader, 2 * count)
    PyDict_Update(packet, form)
    while PyDict_Next(form, &at, &name, &item):
        if not take_name(reader, <object>name):
            reader[0] = before
            packet.clear()
            return False
        PyDict_SetItem(packet, <object>name, take(reader, 1))
    return True


cdef inline bint take_name(Reader* reader, object name) except -1:
    """Go behind *name*, if that comes next and is a short one."""
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(name)
    cdef const unsigned char* at = reader.at
    if size >= 32 or reader.end - at <= size or at[0] != 0xA0 + size:
        return False
    if not PyUnicode_IS_ASCII(name) or memcmp(at + 1, PyUnicode_DATA(name), size):
        return False
    take_byte(reader)
    skip(reader, size)
    return True


cdef inline object make(type kind):
    """Return a new object, with nothing in it."""
    return (<PyTypeObject*>kind).tp_new(kind, <PyObject*>NOTHING, NULL)


cdef inline int owe(Reader* reader, uint64_t count) except -1:
    """Announce *count* values: memory for them is asked for only where they can all be there."""
    cdef Py_ssize_t room = reader.end - reader.at - reader.owed
    if room < 0 or count > <uint64_t>room:
        raise _Beyond
    reader.owed += <Py_ssize_t>count
    return 0


cdef inline const unsigned char* skip(Reader* reader, uint64_t size) except NULL:
    """Return where the next *size* bytes are, and go behind them."""
    cdef const unsigned char* at = reader.at
    if size > <uint64_t>(reader.end - at):
        raise _Beyond
    reader.at = at + size
    return at


cdef inline int take_byte(Reader* reader) except -1:
    reader.owed -= 1
    reader.breath -= 1
    if reader.breath < 0:
        breathe(reader)
    return skip(reader, 1)[0]


cdef int breathe(Reader* reader) except -1:
    """Let another thread have a turn, if one waits: a frame may hold very many values."""
    reader.breath = BREATH
    reader.breaths -= 1
    if reader.breaths <= 0:
        raise _Heavy
    codec.breathe()
    return 0


cdef inline uint64_t take_number(Reader* reader, int width) except? 0xFFFFFFFFFFFFFFFF:
    cdef const unsigned char* at = skip(reader, width)
    cdef uint64_t number = 0
    cdef int index
    for index in range(width):
        number = number << 8 | at[index]
    return number


cdef object take(Reader* reader, int depth):
    cdef int head = take_byte(reader)
    if head < 0x80:
        return head
    if head < 0x90:
        reader.holds = True
        return take_map(reader, {}, head & 15, depth + 1)
    if head < 0xA0:
        return take_list(reader, head & 15, depth + 1)
    if head < 0xC0:
        return take_text(reader, head & 31)
    if head >= 0xE0:
        return head - 256
    return take_long(reader, head, depth)


cdef object take_long(Reader* reader, int head, int depth):
    """Take what is behind a *head* that says only how long that is, if anything."""
    if head == 0xC0:
        return None
    if head == 0xC2:
        return False
    if head == 0xC3:
        return True
    if head == 0xCA or head == 0xCB:
        return take_real(reader, head)
    if 0xCC <= head <= 0xCF:
        return take_number(reader, 1 << (head - 0xCC))
    if head == 0xD0:
        return <int8_t>take_number(reader, 1)
    if head == 0xD1:
        return <int16_t>take_number(reader, 2)
    if head == 0xD2:
        return <int32_t>take_number(reader, 4)
    if head == 0xD3:
        return <int64_t>take_number(reader, 8)
    if 0xC4 <= head <= 0xC6:
        return take_raw(reader, take_number(reader, 1 << (head - 0xC4)))
    if 0xC7 <= head <= 0xC9:
        return take_extension(reader, take_number(reader, 1 << (head - 0xC7)))
    if 0xD4 <= head <= 0xD8:
        return take_extension(reader, 1 << (head - 0xD4))
    if 0xD9 <= head <= 0xDB:
        return take_text(reader, take_number(reader, 1 << (head - 0xD9)))
    if head == 0xDC or head == 0xDD:
        return take_list(reader, take_number(reader, 2 << (head - 0xDC)), depth + 1)
    if head == 0xDE or head == 0xDF:
        reader.holds = True
        return take_map(reader, {}, take_number(reader, 2 << (head - 0xDE)), depth + 1)
    raise _Beyond


cdef object take_real(Reader* reader, int head):
    cdef float single
    cdef double real
    cdef uint32_t half
    cdef uint64_t bits
    if head == 0xCA:
        half = <uint32_t>take_number(reader, 4)
        memcpy(&single, &half, 4)
        return <double>single
    bits = take_number(reader, 8)
    memcpy(&real, &bits, 8)
    return real


cdef inline object take_text(Reader* reader, uint64_t size):
    if size > PIECE:
        return take_long_text(reader, size)
    return PyUnicode_DecodeUTF8(<const char*>skip(reader, size), <Py_ssize_t>size, NULL)


cdef object take_long_text(Reader* reader, uint64_t size):
    cdef const char* at = <const char*>skip(reader, size)
    cdef Py_ssize_t taken, left = <Py_ssize_t>size
    cdef Py_ssize_t length = 0, start = 0
    cdef uint32_t most = 0
    pieces = []
    while left:
        piece = PyUnicode_DecodeUTF8Stateful(at, min(left, PIECE), NULL, &taken)
        if not taken:
            raise _Beyond
        pieces.append(piece)
        length += PyUnicode_GET_LENGTH(piece)
        most = max(most, PyUnicode_MAX_CHAR_VALUE(piece))
        at += taken
        left -= taken
        breathe(reader)
    text = PyUnicode_New(length, most)
    for piece in pieces:
        start += PyUnicode_CopyCharacters(text, start, piece, 0, PyUnicode_GET_LENGTH(piece))
        breathe(reader)
    return text


cdef inline object take_raw(Reader* reader, uint64_t size):
    return PyBytes_FromStringAndSize(<const char*>skip(reader, size), <Py_ssize_t>size)


cdef object take_list(Reader* reader, uint64_t count, int depth):
    cdef Py_ssize_t index
    owe(reader, count)
    reader.holds = True
    if depth > DEPTH:
        raise _Beyond
    found = PyList_New(<Py_ssize_t>count)
    PyObject_GC_UnTrack(<void*>found)  # Until it is whole, nobody is to find it.
    for index in range(<Py_ssize_t>count):
        value = take(reader, depth)
        Py_INCREF(value)
        PyList_SET_ITEM(found, index, value)
    if PY_VERSION_HEX >= 0x030E0000:
        PyObject_GC_Track(<void*>found)
    return found


cdef object take_map(Reader* reader, object found, uint64_t count, int depth):
    """Put what is in a map into *found*, an empty dict, and return it."""
    cdef Py_ssize_t index
    owe(reader, 2 * count)
    if depth > DEPTH:
        raise _Beyond
    if depth > 1 and PY_VERSION_HEX < 0x030E0000:
        PyObject_GC_Track(<void*>found)  # Until it is whole, as packets are.
    for index in range(<Py_ssize_t>count):
        key = take_key(reader)
        PyDict_SetItem(found, key, take(reader, depth))
    if depth > 1:
        forget(found)
    return found


# Names of fields come again and again: those that are short and of ASCII characters, by their bytes.
cdef struct Name:
    uint64_t words[4]
    Py_ssize_t size
    PyObject* text

cdef Name known[KEYS]


cdef object take_key(Reader* reader):
    cdef int head = take_byte(reader)
    cdef uint64_t size
    cdef uint64_t words[4]
    cdef const unsigned char* at
    cdef Name* name
    if 0xA0 <= head < 0xC0:
        size = head & 31
    elif 0xD9 <= head <= 0xDB:
        size = take_number(reader, 1 << (head - 0xD9))
    else:
        raise _Beyond
    if not 0 < size <= LONGEST_KEY:
        return take_text(reader, size)
    at = skip(reader, size)
    name = &known[read_words(at, <Py_ssize_t>size, words)]
    if name.size == <Py_ssize_t>size and not memcmp(name.words, words, sizeof(words)):
        return <object>name.text
    key = PyUnicode_DecodeUTF8(<const char*>at, <Py_ssize_t>size, NULL)
    if PyUnicode_IS_ASCII(key):
        Py_INCREF(key)
        Py_XDECREF(name.text)
        memcpy(name.words, words, sizeof(words))
        name.size, name.text = <Py_ssize_t>size, <PyObject*>key
    return key


cdef inline uint32_t read_words(const unsigned char* at, Py_ssize_t size, uint64_t* words) noexcept:
    """Read all of the *size* bytes, 1 to 32, some of them twice; return a hash below KEYS of them.

    Words are compared, and mixed, in a fraction of the time that bytes are.
    """
    cdef uint64_t mixed = <uint64_t>size
    cdef uint32_t half, rest
    words[0] = words[1] = words[2] = words[3] = 0
    if size >= 8:
        memcpy(&words[0], at, 8)
        memcpy(&words[1], at + size - 8, 8)
        if size > 16:
            memcpy(&words[2], at + 8, 8)
            memcpy(&words[3], at + size - 16, 8)
            mixed = mix(mix(mixed, words[2]), words[3])
        mixed = mix(mixed, words[1])
    elif size >= 4:
        memcpy(&half, at, 4)
        memcpy(&rest, at + size - 4, 4)
        words[0] = half | <uint64_t>rest << 32
    else:
        words[0] = at[0] | at[size >> 1] << 8 | at[size - 1] << 16
    return <uint32_t>(mix(mixed, words[0]) >> 54)


cdef inline uint64_t mix(uint64_t mixed, uint64_t word) noexcept:
    """Mix *word* in, as Fibonacci hashing does (Knuth, The Art of Computer Programming, 6.4)."""
    return (mixed ^ word) * <uint64_t>0x9E3779B97F4A7C15


cdef object take_extension(Reader* reader, uint64_t size):
    cdef int tag = skip(reader, 1)[0]
    cdef const unsigned char* at = skip(reader, size)
    reader.breath -= <Py_ssize_t>(size // EACH)
    if size > QUICK_NUMBER and reader.breaths <= QUICK and (tag == BIG_INTEGER or tag == DECIMAL):
        raise _Heavy
    if tag == DECIMAL and size <= <uint64_t>MOST_DIGITS:
        return make_decimal(PyUnicode_DecodeASCII(<const char*>at, <Py_ssize_t>size, NULL))
    if tag == IDENTIFIER and size == 16:
        return make_identifier(at)
    if tag == MOMENT and (moment := make_moment(at, size)) is not None:
        return moment
    reader.holds = True
    data = PyBytes_FromStringAndSize(<const char*>at, <Py_ssize_t>size)
    return codec._restore(tag, data)


cdef object make_identifier(const unsigned char* at):
    # As UUID does in its __init__, which takes four times as long to look at its arguments.
    found = make(UUID)
    NUMBER_SLOT.tp_descr_set(NUMBER, found, _PyLong_FromByteArray(at, 16, False, False))
    SAFETY_SLOT.tp_descr_set(SAFETY, found, UNKNOWN)
    PyObject_GC_UnTrack(<void*>found)  # It holds a number, and never anything else.
    return found


cdef inline int digits(const unsigned char* at, int width) noexcept:
    """Return the number that is written there; a negative one for anything but digits."""
    cdef int index, number = 0
    for index in range(width):
        if not 48 <= at[index] <= 57:
            return -1 << 20
        number = 10 * number + at[index] - 48
    return number


cdef object make_moment(const unsigned char* at, uint64_t size):
    """Return the datetime that is written there; None if it is not written as most are."""
    cdef int micros = 0
    cdef bint aware = size == 26 or size == 33
    if aware:
        size -= 6
        if memcmp(at + size, "+00:00", 6):
            return None
    if size != 20 and size != 27 or at[0] > 1:
        return None
    if at[5] != b"-" or at[8] != b"-" or at[11] != b"T" or at[14] != b":" or at[17] != b":":
        return None
    if size == 27:
        if at[20] != b".":
            return None
        micros = digits(at + 21, 6)
    return datetime_new(
        digits(at + 1, 4), digits(at + 6, 2), digits(at + 9, 2), digits(at + 12, 2),
        digits(at + 15, 2), digits(at + 18, 2), micros, UTC if aware else None, at[0],
    )
