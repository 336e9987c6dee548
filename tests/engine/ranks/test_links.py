"""Connections between ranks."""

import socket
import time

import pytest

from d2_seesaw.engine.ranks.links import Link


@pytest.fixture
def links():
    """Return the two ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        other = socket.create_connection(server.getsockname())
        one = server.accept()[0]
    pair = Link(one), Link(other)
    yield pair
    for link in pair:
        link.close()


def received(link, until):
    """Return the messages that arrive until one has a key, or the other side closes."""
    messages, end = [], time.monotonic() + 5
    while link.is_open and not any(until in m for m in messages) and time.monotonic() < end:
        messages += link.receive()
    return messages


@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_the_last_message_arrives_if_its_sender_has_not_read_what_it_got(links, rounds):
    one, other = links
    for step in range(rounds):
        for sender, receiver in (links, links[::-1]):
            sender.send(state=step)
            assert received(receiver, "state") == [{"state": step}]
    one.send(state="not read")
    time.sleep(0.01)
    other.send(state="last")
    other.send(failed="an error")
    other.close()
    assert received(one, "failed") == [{"state": "last"}, {"failed": "an error"}]
    assert one.receive() == []
    assert not one.is_open
