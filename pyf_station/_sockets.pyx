# cython: language_level=3, binding=False, boundscheck=False, wraparound=False, initializedcheck=False
"""What does not wait needs no change of threads; see ``pyf.station.sockets``."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINPROGRESS, EINTR, errno
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memset

cdef extern from "<sys/socket.h>":
    ctypedef unsigned int socklen_t
    struct sockaddr:
        pass
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    int AF_INET, AF_INET6, SOL_SOCKET, SO_ERROR, MSG_DONTWAIT
    int _connect "connect"(int sock, const sockaddr* address, socklen_t size)
    int getsockopt(int sock, int level, int option, void* value, socklen_t* size)
    ssize_t recv(int sock, void* buffer, size_t size, int flags)
    ssize_t sendmsg(int sock, const msghdr* message, int flags)

cdef extern from "<netinet/in.h>":
    struct in_addr:
        pass
    struct in6_addr:
        pass
    struct sockaddr_in:
        uint16_t sin_family, sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_family, sin6_port
        uint32_t sin6_flowinfo, sin6_scope_id
        in6_addr sin6_addr

cdef extern from "<arpa/inet.h>":
    uint16_t htons(uint16_t number)
    uint32_t htonl(uint32_t number)
    int inet_pton(int family, const char* text, void* address)

cdef extern from "<poll.h>":
    struct pollfd:
        int fd
        short events, revents
    short POLLOUT
    int poll(pollfd* sockets, unsigned long count, int milliseconds)

cdef enum:
    ROOM = 65536  # bytes
    MOST_HELD = 131072  # bytes that are soon copied, with all other threads waiting
    MOST_BUFFERS = 64

# One for all sockets: nobody else is here meanwhile.
cdef char room[ROOM]


def begin(sock, address):
    cdef sockaddr_in four
    cdef sockaddr_in6 six
    cdef pollfd under_way
    cdef int number = sock.fileno()
    cdef int family = sock.family
    cdef int error = 0
    cdef socklen_t size = sizeof(error)
    cdef int result
    memset(&four, 0, sizeof(four))
    memset(&six, 0, sizeof(six))
    if family == AF_INET and inet_pton(AF_INET, address[0].encode(), &four.sin_addr) == 1:
        four.sin_family, four.sin_port = AF_INET, htons(address[1])
        result = _connect(number, <sockaddr*> &four, sizeof(four))
    elif family == AF_INET6 and inet_pton(AF_INET6, address[0].encode(), &six.sin6_addr) == 1:
        six.sin6_family, six.sin6_port = AF_INET6, htons(address[1])
        six.sin6_flowinfo, six.sin6_scope_id = htonl(address[2]), address[3]
        result = _connect(number, <sockaddr*> &six, sizeof(six))
    else:
        return sock.connect_ex(address)
    if result < 0 and errno != EINPROGRESS:
        return errno
    # Within a machine, the answer comes before the call of the system returns.
    under_way.fd, under_way.events = number, POLLOUT
    if result < 0 and poll(&under_way, 1, 0) < 1:
        return EINPROGRESS
    getsockopt(number, SOL_SOCKET, SO_ERROR, &error, &size)
    return error


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
