# cython: language_level=3, binding=False
"""Values for ``async for`` at the cost of ``for``; see ``pyf.station.flattened``."""

cimport cython
from cpython.object cimport PyObject

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN, PYGEN_ERROR, PYGEN_NEXT
    ctypedef PySendResult (*Send)(PyObject*, PyObject*, PyObject**) except PYGEN_ERROR
    ctypedef struct PyAsyncMethods:
        Send am_send
    ctypedef struct Slots "PyTypeObject":
        PyAsyncMethods* tp_as_async
    PyObject* PyIter_Next(object values) except? NULL
    PySendResult PyIter_Send(object where, PyObject* value, PyObject** result) except PYGEN_ERROR


@cython.final
cdef class flattened:
    """Async iterator of the values in *batches*."""

    cdef object batches
    cdef object values

    def __init__(self, batches):
        self.batches, self.values = batches, iter(())

    def __aiter__(self):
        return self

    def __anext__(self):
        step = <Step>Step.__new__(Step)
        step.of = self
        return step

    async def aclose(self):
        self.values = iter(())
        await self.batches.aclose()


@cython.final
@cython.freelist(8)
cdef class Step:
    """What gives the next value where it is awaited: at once, unless it has to come yet."""

    cdef flattened of
    cdef object fetching

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        cdef PyObject* result
        kind = give(<PyObject*>self, <PyObject*>value, &result)
        found = owned(result)
        if kind == PYGEN_RETURN:
            raise StopIteration(found)
        return found

    def throw(self, *error):
        return self.begin().throw(*error)

    def close(self):
        if self.fetching is not None:
            self.fetching.close()

    cdef object begin(self):
        if self.fetching is None:
            if self.of is None:
                raise RuntimeError("cannot reuse a step that was awaited already")
            self.fetching = fetch(self.of)
        return self.fetching


async def fetch(flattened of):
    while True:
        of.values = iter(await of.batches.__anext__())
        for value in of.values:
            return value


cdef PySendResult give(PyObject* where, PyObject* value, PyObject** result) except PYGEN_ERROR:
    step = <Step>where
    if step.fetching is None and step.of is not None:
        result[0] = PyIter_Next(step.of.values)
        if result[0] is not NULL:
            step.of = None
            return PYGEN_RETURN
    return PyIter_Send(step.begin(), value, result)


cdef inline object owned(PyObject* value):
    """Return *value*, whose reference is the caller's."""
    found = <object>value
    release(value)
    return found


cdef extern from "Python.h":
    void release "Py_DECREF"(PyObject* value)

# Python has no name for this slot, without which each value is raised in a StopIteration.
(<Slots*>Step).tp_as_async.am_send = give
