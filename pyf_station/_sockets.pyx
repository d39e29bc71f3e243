# cython: language_level=3, binding=False, boundscheck=False, wraparound=False, initializedcheck=False
"""What does not wait needs no change of threads; see ``pyf.station.sockets``."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno
from libc.string cimport memset

cdef extern from "<sys/socket.h>":
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    int MSG_DONTWAIT
    ssize_t recv(int sock, void* buffer, size_t size, int flags)
    ssize_t sendmsg(int sock, const msghdr* message, int flags)

cdef enum:
    ROOM = 65536  # bytes
    MOST_HELD = 131072  # bytes that are soon copied, with all other threads waiting
    MOST_BUFFERS = 64

# One for all sockets: nobody else is here meanwhile.
cdef char room[ROOM]


def receive(sock, size_t most):
    cdef ssize_t got = recv(sock.fileno(), room, most if most < ROOM else ROOM, MSG_DONTWAIT)
    if got >= 0:
        return PyBytes_FromStringAndSize(room, got)
    if errno == EAGAIN or errno == EINTR:
        return None
    PyErr_SetFromErrno(OSError)


def send(sock, list buffers):
    cdef iovec parts[MOST_BUFFERS]
    cdef msghdr message
    cdef size_t size = 0
    cdef int count = 0
    cdef ssize_t sent
    for data in buffers:
        if type(data) is not bytes or count == MOST_BUFFERS:
            return sock.sendmsg(buffers)
        parts[count].iov_base = PyBytes_AS_STRING(data)
        parts[count].iov_len = PyBytes_GET_SIZE(data)
        size += PyBytes_GET_SIZE(data)
        count += 1
    if size > MOST_HELD:
        return sock.sendmsg(buffers)
    memset(&message, 0, sizeof(message))
    message.msg_iov, message.msg_iovlen = parts, count
    sent = sendmsg(sock.fileno(), &message, MSG_DONTWAIT)
    if sent < 0:
        PyErr_SetFromErrno(OSError)
    return sent
