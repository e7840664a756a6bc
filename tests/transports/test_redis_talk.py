"""Replies out of bytes: the same, wherever the network cuts them, and errors among them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import InvalidResponse, NoScriptError, ResponseError

from postbus.transports.redis.talk import NOTHING, new_reader

SIMPLE = st.text(st.characters(codec="ascii", exclude_characters="\r\n")).map(str.encode)
REPLIES = st.recursive(
    st.none() | st.integers(-(2**62), 2**62) | st.binary(max_size=30) | SIMPLE.map(lambda text: ("simple", text)),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


def spoken(reply: Any) -> bytes:
    """As a server sends it."""
    match reply:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % reply
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(reply), reply)
        case ("simple", bytes(text)):
            return b"+%s\r\n" % text
        case _:
            return b"*%d\r\n%s" % (len(reply), b"".join(map(spoken, reply)))


def meant(reply: Any) -> Any:
    """As it is heard."""
    match reply:
        case ("simple", text):
            return text
        case list():
            return [meant(each) for each in reply]
        case _:
            return reply


def heard(reader: hiredis.Reader, data: bytes, cuts: list[int]) -> list[Any]:
    found = []
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for begin, end in pairwise(places):
        reader.feed(data[begin:end])
        while (reply := reader.gets()) is not NOTHING:
            found.append(reply)
    return found


@given(replies=st.lists(REPLIES, max_size=5), cuts=st.lists(st.integers(0, 10_000), max_size=8))
def test_replies_are_whole_wherever_the_network_cuts_them(replies: list[Any], cuts: list[int]) -> None:
    data = b"".join(map(spoken, replies))
    assert heard(new_reader(), data, cuts) == list(map(meant, replies))


def test_errors_are_replies_of_their_kind() -> None:
    errors = heard(new_reader(), b"*2\r\n:1\r\n-ERR no such thing\r\n-NOSCRIPT No matching script.\r\n*-1\r\n", [])
    assert [type(error) for error in errors] == [list, NoScriptError, type(None)]
    assert errors[0][0] == 1
    assert type(errors[0][1]) is ResponseError
    assert str(errors[0][1]).endswith("no such thing")


def test_what_is_no_reply_is_refused() -> None:
    with pytest.raises(InvalidResponse):
        heard(new_reader(), b"HTTP/1.1 400 Bad Request\r\n", [])
