"""The packet: a dict whose fields are also attributes."""

from __future__ import annotations

from typing import Any

_DICT_ATTRIBUTES = frozenset(dir(dict))


class Packet(dict[str, Any]):
    """A dict with str keys whose fields can be read, set and deleted as attributes.

    Built as any dict is: ``Packet({'a': 1})``, ``Packet(a=1)``. A field whose name a dict method
    has already (``items``, ``keys``, ``get`` …), or that Python keeps for itself (``__copy__``),
    is reached as an item only.

    A nested dict becomes a Packet in its place the first time it is read as an attribute, alone or
    in a list: ``packet.address.city = 'Rome'`` changes ``packet['address']['city']`` too. For this
    each reading of a list looks at all its elements: take a long list out of a loop.

    Safe to share between threads as far as a dict is.
    """

    # No __init__ and no __dict__: a packet is made in C, a million times a second. Compiled code,
    # where there is some, reads and sets fields that have plain values before it comes to this.
    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        # A peer chooses the names of fields: none may pose as a method that Python looks for.
        if name not in self or name.startswith("__"):
            raise _missing(self, name)
        value = self[name]
        if type(value) is dict:
            self[name] = value = Packet(value)
        elif type(value) is list:
            _adopt(value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        _check_name(name)
        self[name] = value

    def __delattr__(self, name: str) -> None:
        _check_name(name)
        if name not in self:
            raise _missing(self, name)
        del self[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *map(str, self)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({super().__repr__()})"

    def __or__(self, other: Any) -> Any:
        # A dict's own would give a dict, without attributes.
        return type(self)({**self, **other}) if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> Any:
        return type(self)({**other, **self}) if isinstance(other, dict) else NotImplemented

    def copy(self) -> Packet:
        """Return a shallow copy, a Packet too."""
        return type(self)(self)


# No methods: a field may be called anything.


def _missing(packet: Packet, name: str) -> AttributeError:
    fields = ", ".join(map(str, packet)) or "none"
    text = f"the packet has no attribute {name!r}; its fields: {fields}"
    return AttributeError(text, name=name, obj=packet)


def _check_name(name: str) -> None:
    if name in _DICT_ATTRIBUTES or name.startswith("__"):
        raise AttributeError(f"{name!r} is no field to be set or deleted: use packet[{name!r}]")


def _adopt(values: list[Any]) -> None:
    """Turn the dicts in *values* into Packets, in place, at any depth of lists."""
    pending = [values]
    seen: set[int] = set()
    while pending:
        items = pending.pop()
        kinds = set(map(type, items))
        if id(items) in seen or not (dict in kinds or list in kinds):
            continue
        seen.add(id(items))
        for index, item in enumerate(items):
            if type(item) is dict:
                items[index] = Packet(item)
            elif type(item) is list:
                pending.append(item)
