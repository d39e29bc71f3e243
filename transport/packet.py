"""The packet: a dict whose fields are also attributes."""

from __future__ import annotations

from typing import Any

_DICT_ATTRIBUTES = frozenset(dir(dict))


class Packet(dict[str, Any]):
    """A dict with str keys whose fields can be read, set and deleted as attributes.

    Built as any dict is: ``Packet({'a': 1})``, ``Packet(a=1)``. A field whose name a dict method has
    already (``items``, ``keys``, ``get`` …) is reached as an item only.

    A nested dict becomes a Packet in its place the first time it is read as an attribute, alone or
    in a list: ``packet.address.city = 'Rome'`` changes ``packet['address']['city']`` too.

    Safe to share between threads as far as a dict is.
    """

    # No __init__ and no __dict__: a packet is made in C, a million times a second.
    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            value = self[name]
        except KeyError:
            fields = ", ".join(map(str, self)) or "none"
            text = f"the packet has no field {name!r}; its fields: {fields}"
            raise AttributeError(text, name=name, obj=self) from None
        if type(value) is dict:
            self[name] = value = Packet(value)
        elif type(value) is list:
            _adopt(value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _DICT_ATTRIBUTES:
            raise AttributeError(f"{name!r} is a method of dict: set it as packet[{name!r}]")
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"the packet has no field {name!r}", name=name, obj=self) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name for name in self if isinstance(name, str))]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({super().__repr__()})"

    def copy(self) -> Packet:
        """Return a shallow copy, a Packet too."""
        return type(self)(self)


def _adopt(values: list[Any]) -> None:
    """Turn the dicts in *values* into Packets, in place, at any depth of lists."""
    pending = [values]
    seen: set[int] = set()
    while pending:
        items = pending.pop()
        seen.add(id(items))
        for index, item in enumerate(items):
            if type(item) is dict:
                items[index] = Packet(item)
            elif type(item) is list and id(item) not in seen:
                pending.append(item)
