"""Hostile values, mutations of documents and files, and the calls under test with their limits."""

import contextlib
import copy
import json
import resource
import signal

from hypothesis import strategies as st

from d2_seesaw.cli import errors_in_one_line

SECONDS, GIGABYTES = 10, 4  # that one call may take


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE = (
    *(None, True, False, "", "0", "1", "96", "x", "é", "\ud800", "=1+1", "../../x"),
    *(-1, 0, 1, 2, 7, 0.5, 1.5, -0.0, 1e-300, 1e7, 1e308, -1e308, 2**31, 2**63, 10**30),
    *(float("nan"), float("inf"), float("-inf")),
    *([], [[]], [1, 2], [1, 2, 3, 4], [[1, 2, 3]], [None], {}, {"a": 1}, nested(30)),
    *({"size": [24, 32], "counts": [0, 5]}, {"size": [24, 32], "counts": "x"}),
    *({"size": [1e9, 1e9], "counts": []}, {"size": [24, 32], "counts": [0, -5, 773]}),
)


def paths_of(value, path=()):
    """Yield the path of each part of a document."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in entries:
        if isinstance(part, dict | list):
            yield from paths_of(part, (*path, key))
        else:
            yield (*path, key)


def mutations(document):
    """Return a strategy for one to three changes of a JSON document."""
    change = st.tuples(
        st.sampled_from(list(paths_of(document))[1:]),
        st.sampled_from(["set", "set", "set", "delete", "repeat", "negate", "scale", "text"]),
        st.sampled_from(HOSTILE),
    )
    return st.lists(change, min_size=1, max_size=3)


def mutated(document, changes):
    """Return a changed copy of a document. Changes whose path is gone are left out."""
    document = copy.deepcopy(document)
    for path, kind, value in changes:
        with contextlib.suppress(LookupError, TypeError):
            parent = document
            for key in path[:-1]:
                parent = parent[key]
            _change(parent, path[-1], kind, value)
    return document


def _change(parent, key, kind, value):
    if kind == "delete":
        del parent[key]
    elif kind == "repeat" and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif kind == "negate":
        parent[key] = -parent[key]
    elif kind == "scale":
        parent[key] = parent[key] * 1e6
    elif kind == "text":
        parent[key] = str(parent[key])
    else:
        parent[key] = copy.deepcopy(value)


def _cut(data, place):
    return data[: place % (len(data) + 1)]


def _overwritten(data, place):
    place %= len(data)
    return data[:place] + bytes([place % 256]) + data[place + 1 :]


ENCODINGS = {
    "unchanged": lambda data, place: data,
    "byte order mark": lambda data, place: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data, place: data.decode("utf-8", "replace").encode("utf-16"),
    "cut": _cut,
    "overwritten": _overwritten,
    "doubled": lambda data, place: data + data,
    "empty": lambda data, place: b"",
    "zeros": lambda data, place: bytes(64),
}
# Most files are encoded as usual.
ENCODED = st.sampled_from(["unchanged"] * 8 + list(ENCODINGS))
PLACE = st.integers(0, 10**6)


def as_json(document, encoding, place):
    """Return the bytes of a JSON file in an encoding, possibly damaged."""
    return ENCODINGS[encoding](json.dumps(document).encode(), place)


@contextlib.contextmanager
def limited():
    """Limit time and memory of a call, so that a hang or a huge array is a failure."""

    def stop(*_):
        raise AssertionError(f"not done after {SECONDS} s")

    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + GIGABYTES * 2**30, before[1]))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(call, *arguments, **options):
    """Return the result of a call and None, or None and the line with which a command ends.

    Errors that a command does not turn into a line are failures, and so are lines without words.
    """
    try:
        with limited(), errors_in_one_line("fuzz"):
            return call(*arguments, **options), None
    except SystemExit as end:
        line = str(end.code)
        assert len(line) > len("d2-seesaw fuzz: ") + 10, line
        assert "Traceback" not in line
        return None, line
