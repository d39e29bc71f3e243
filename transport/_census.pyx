# cython: language_level=3, binding=False, boundscheck=False, wraparound=False, initializedcheck=False
"""The walk of ``pyf.transport.census``, compiled: the same findings, a hundred times as soon."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t

from pyf.transport.limits import MAX_NESTING

cdef enum:
    LEVELS = 1024
    ALONE = 0
    MORE = 1
    ANNOUNCED = 2
    NUMBER = 3
    MANY = 4
    WEIGHT = 5
    DEEP = 6

cdef int64_t MOST = 2**62
cdef int64_t NESTING = MAX_NESTING
assert MAX_NESTING < LEVELS

cdef struct Form:
    int64_t size, weight, width, content, rate, items, inside
    bint tagged

cdef struct Costs:
    int64_t memory, objects, number

cdef struct Finding:
    int kind
    int64_t limit, actual


cdef class Walk:
    """See ``pyf.transport.census.Walk``."""

    cdef Form forms[256]

    def __init__(self, forms):
        for index, form in enumerate(forms):
            self.forms[index].size, self.forms[index].weight, self.forms[index].width = form[:3]
            self.forms[index].content, self.forms[index].rate = form[3:5]
            self.forms[index].items, self.forms[index].inside, self.forms[index].tagged = form[5:]

    def __call__(self, data, memory, objects, number):
        cdef Py_buffer view
        cdef Costs costs
        cdef Finding found
        costs.memory, costs.objects = min(memory, MOST), min(objects, MOST)
        costs.number = number
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            with nogil:
                found = walk(self.forms, <const unsigned char*>view.buf, view.len, costs)
        finally:
            PyBuffer_Release(&view)
        return found.kind, found.limit, found.actual


cdef inline Finding finding(int kind, int64_t limit, int64_t actual) noexcept nogil:
    cdef Finding found
    found.kind, found.limit, found.actual = kind, limit, actual
    return found


cdef Finding walk(
    const Form* forms, const unsigned char* data, int64_t end, Costs costs
) noexcept nogil:
    cdef int64_t outer[LEVELS]
    cdef int64_t at = 0, weight = 0, count = 0, left = 1, depth = 0
    cdef int64_t size, inside, length, index, tag
    cdef const Form* form
    while left and at < end:
        form = &forms[data[at]]
        size, inside = form.size, form.inside
        length = 0
        if form.width:
            for index in range(at + 1, min(at + 1 + form.width, end)):
                length = length << 8 | data[index]
            size += form.content * length
            inside = form.items * length
        if at + size + inside > end:
            return finding(ANNOUNCED, end - at, at + size + inside - at)
        if form.tagged and size - 2 - form.width > costs.number:
            tag = data[at + 1 + form.width]
            if tag == 1 or tag == 2:
                return finding(NUMBER, costs.number, size - 2 - form.width)
        at += size
        count += 1
        weight += form.weight + form.rate * length
        if count > costs.objects:
            return finding(MANY, costs.objects, count)
        if weight > costs.memory:
            return finding(WEIGHT, costs.memory, weight)
        left -= 1
        if inside:
            if depth >= NESTING:
                return finding(DEEP, NESTING, depth + 1)
            outer[depth] = left
            depth += 1
            left = inside
        while not left and depth:
            depth -= 1
            left = outer[depth]
    return finding(ALONE if not left and at == end else MORE, 0, 0)
