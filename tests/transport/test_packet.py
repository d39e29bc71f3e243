"""A packet is a dict whose fields are also attributes."""

import copy
import json
import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyf.transport import Packet


class Row(Packet):
    __slots__ = ()


@pytest.fixture(params=[Packet, Row], ids=["packet", "subclass"], scope="session")
def kind(request):
    """
    Fields of a Packet itself are read and set by compiled code, where there is some.
    """
    return request.param


def test_built_from_a_dict_or_from_fields():
    assert Packet({"a": 1}) == Packet(a=1) == {"a": 1}


def test_fields_called_self_or_name_can_be_given():
    assert Packet(self=1, name=2) == {"self": 1, "name": 2}


def test_a_field_is_item_and_attribute(kind):
    packet = kind(a=1)
    packet.b = 2
    packet["c"] = 3
    assert (packet.a, packet["b"], packet.c) == (1, 2, 3)
    del packet.a
    assert "a" not in packet
    assert "b" in packet
    assert packet.get("b") == 2


def test_merging_gives_a_packet():
    """
    On either side of a plain dict; the right one's fields count.
    """
    for merged in (Packet(a=1, b=1) | {"b": 2}, {"a": 1, "b": 1} | Packet(b=2)):
        assert type(merged) is Packet
        assert merged == {"a": 1, "b": 2}
        assert merged.b == 2
    packet = Packet(a=1)
    same = packet
    packet |= {"b": 2}
    assert same is packet
    assert packet.b == 2
    for other in ([("b", 2)], None):
        with pytest.raises(TypeError):
            _ = packet | other
        with pytest.raises(TypeError):
            _ = other | packet


def test_it_does_what_a_dict_does():
    packet = Packet(b=1, a=2)
    assert list(packet) == ["b", "a"]
    assert packet.get("x", 5) == 5
    assert packet.pop("b") == 1
    assert len(packet) == 1
    assert json.dumps(packet) == '{"a": 2}'


def test_missing_attribute_names_the_fields(kind):
    with pytest.raises(AttributeError, match="'c'; its fields: a, b") as caught:
        _ = kind(a=1, b=2).c
    assert caught.value.name == "c"
    assert caught.value.obj == {"a": 1, "b": 2}
    assert not hasattr(Packet(), "c")


def test_missing_attribute_of_an_empty_packet_says_that_there_are_none():
    with pytest.raises(AttributeError, match="its fields: none"):
        _ = Packet().c


def test_missing_item_is_a_key_error(kind):
    with pytest.raises(KeyError, match="c"):
        _ = kind(a=1)["c"]
    with pytest.raises(TypeError, match="unhashable"):
        _ = kind(a=1)[[]]


def test_deleting_a_missing_attribute_names_the_fields(kind):
    packet = kind(a=1)
    with pytest.raises(AttributeError, match="'missing'; its fields: a"):
        del packet.missing


@pytest.mark.parametrize("name", ["items", "keys", "get", "copy", "__class__", "__len__"])
def test_a_field_named_like_a_method_is_an_item_only(kind, name):
    packet = kind({name: 1})
    assert packet[name] == 1
    assert getattr(packet, name) != 1
    with pytest.raises(AttributeError, match="use packet"):
        setattr(packet, name, 2)
    with pytest.raises(AttributeError, match="use packet"):
        delattr(packet, name)
    assert packet == {name: 1}


@pytest.mark.parametrize("name", ["__deepcopy__", "__array_interface__", "__html__"])
def test_a_field_cannot_pose_as_a_special_method(kind, name):
    """
    A peer that sends a field called __deepcopy__ does not change what copy.deepcopy does.
    """
    packet = kind({name: 1, "a": [1]})
    assert not hasattr(packet, name)
    assert copy.deepcopy(packet) == packet
    with pytest.raises(AttributeError, match="use packet"):
        setattr(packet, name, 2)


@pytest.mark.parametrize("name", ["_missing", "_private", "missing", "fields", "__"])
def test_no_helper_of_ours_hides_a_field(kind, name):
    packet = kind({name: 1})
    assert name == "__" or getattr(packet, name) == 1


def test_a_nested_dict_reads_as_a_packet_and_keeps_its_identity(kind):
    packet = kind(address={"city": "Paris", "geo": {"lat": 1}})
    assert packet.address.geo.lat == 1
    packet.address.city = "Rome"
    assert packet["address"]["city"] == "Rome"
    assert packet.address is packet.address is packet["address"]
    assert type(packet.address) is Packet


def test_dicts_in_lists_read_as_packets():
    packet = Packet(lines=[{"price": 1}, [{"price": 2}], 3])
    assert packet.lines[0].price == 1
    assert packet.lines[1][0].price == 2
    assert packet.lines is packet["lines"]
    packet.lines[0].price = 5
    assert packet == {"lines": [{"price": 5}, [{"price": 2}], 3]}


def test_a_list_that_holds_itself_can_be_read():
    endless: list[object] = [{"a": 1}]
    endless.append(endless)
    assert Packet(endless=endless).endless[1][0].a == 1


def test_a_list_without_dicts_is_left_alone():
    values = [1.5, 2.5]
    assert Packet(values=values).values is not values
    assert Packet(numbers=values).numbers is values


def test_copies_are_packets_of_their_own():
    packet = Packet(a={"b": 1})
    for other in (packet.copy(), copy.copy(packet)):
        assert type(other) is Packet
        assert other == packet
        assert other is not packet
        assert other["a"] is packet["a"]
    deep = copy.deepcopy(packet)
    assert type(deep) is Packet
    assert deep == packet
    assert deep["a"] is not packet["a"]


def test_a_subclass_copies_as_itself():
    assert type(Row(a=1).copy()) is Row
    assert repr(Row(a=1)) == "Row({'a': 1})"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_pickles(protocol):
    packet = Packet({"a": 1, "items": 2, "b": Packet(c=3)})
    again = pickle.loads(pickle.dumps(packet, protocol))
    assert type(again) is type(again["b"]) is Packet
    assert again == packet


def test_repr_can_be_read_back():
    packet = Packet(a=1, b=[Packet(c="x")])
    assert repr(packet) == "Packet({'a': 1, 'b': [Packet({'c': 'x'})]})"
    assert eval(repr(packet)) == packet


def test_repr_of_a_packet_that_holds_itself_ends():
    packet = Packet()
    packet.me = packet
    assert repr(packet) == "Packet({'me': Packet({...})})"


def test_dir_names_the_fields():
    assert {"a", "items", "b"} <= set(dir(Packet({"a": 1, "items": 2, "b": 3})))


def test_class_patterns_match_fields():
    match Packet(type="info", message="hello"):
        case Packet(type="info", message=text):
            assert text == "hello"
        case _:
            pytest.fail("no match")


def test_it_has_no_place_for_anything_but_fields():
    assert not hasattr(Packet(), "__dict__")


def test_attributes_can_be_read_while_others_iterate():
    """
    Reading a nested dict replaces a value, which does not disturb an iteration.
    """
    packet = Packet({f"field{number}": {} for number in range(1000)})
    names = list(packet)

    def read() -> None:
        for name in names:
            getattr(packet, name)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(10):
        assert len(list(packet.items())) == 1000
    reader.join()


def test_a_subclass_may_read_fields_in_its_own_way():
    class Loud(Packet):
        __slots__ = ()

        def __getitem__(self, name):
            return super().__getitem__(name).upper()

        def __getattr__(self, name):
            return self[name] + "!"

    packet = Loud(a="b")
    assert (packet["a"], packet.a) == ("B", "B!")


@given(fields=st.dictionaries(st.text(), st.integers()))
def test_any_field_with_a_free_name_is_an_attribute(kind, fields):
    packet = kind(fields)
    assert packet == fields
    for name, value in fields.items():
        if not hasattr(dict, name) and not name.startswith("__"):
            assert getattr(packet, name) == value
