import fcntl
import logging
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import distributed

from d2_seesaw.utils import progress
from d2_seesaw.utils.progress import Progress, track


@pytest.fixture
def terminal(monkeypatch):
    """Make standard error a terminal; yield a function that returns its contents."""
    monkeypatch.setattr(progress, "_SECONDS_BEFORE_A_BAR", 0)
    ours, theirs = pty.openpty()
    with open(theirs, "w") as stderr:
        monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stderr))

        def shown():
            stderr.flush()
            text = b""
            while select.select([ours], [], [], 0.1)[0]:  # the text arrives in parts
                text += os.read(ours, 1 << 16)
            return text.decode()

        yield shown
    os.close(ours)


@pytest.fixture
def log_file(tmp_path, monkeypatch):
    """Make standard error a file that also receives log messages."""
    path = tmp_path / "log.txt"
    logger = logging.getLogger("d2_seesaw")
    with open(path, "w") as stderr:
        monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stderr))
        handler = logging.StreamHandler(stderr)
        logger.addHandler(handler)
        level = logger.level
        logger.setLevel(logging.INFO)  # also forgets which levels earlier calls found disabled
        yield path
        logger.setLevel(level)
        logger.removeHandler(handler)


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock by a list of times that the test extends."""
    times = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: times[-1])
    return times


def test_a_terminal_shows_a_bar(terminal, caplog):
    assert list(track(range(3), "reading images", unit="image")) == [0, 1, 2]
    text = terminal()
    assert "\r" in text
    assert "reading images: 100%" in text
    assert "3/3" in text
    assert not caplog.records


def test_a_bar_of_bytes_uses_byte_units(terminal):
    with Progress("reading x.json", total=3_000_000, unit="B") as work:
        work.update(3_000_000)
    assert "3.00M/3.00M" in terminal()


def test_short_work_shows_no_bar(terminal, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BEFORE_A_BAR", 60)
    list(track(range(3), "reading images"))
    assert terminal() == ""


def test_messages_and_details_do_not_break_the_bar(terminal):
    with Progress("predicting", total=2, unit="file") as work:
        work.update()
        work.write("a.png cannot be read")
        work.detail("b.mp4 3/9")
        work.update()
    text = terminal()
    assert "a.png cannot be read" in [line.split("\r")[-1] for line in text.split("\r\n")]
    assert "b.mp4 3/9" in text


def test_a_file_gets_a_line_every_ten_seconds_and_at_the_end(log_file, clock):
    for _ in track(range(25), "reading images", unit="image"):
        clock.append(clock[-1] + 1)
    assert log_file.read_text().splitlines() == [
        "reading images: 10 images of 25 images, 00:10 so far, 00:15 left",
        "reading images: 20 images of 25 images, 00:20 so far, 00:05 left",
        "reading images: 25 images in 00:25",
    ]
    assert "\r" not in log_file.read_text()


def test_a_terminal_gets_a_line_only_at_the_end_of_long_work(terminal, clock, caplog):
    with caplog.at_level(logging.INFO):
        for _ in track(range(25), "reading images", unit="image"):
            clock.append(clock[-1] + 1)
    assert caplog.messages == ["reading images: 25 images in 00:25"]
    assert "25/25" in terminal()


def test_bytes_have_units_and_an_unknown_total_shows_no_time_left(log_file, clock):
    with Progress("reading x.json", total=3_000_000, unit="B") as work:
        clock.append(clock[-1] + 100)
        work.update(1_000_000)
    with Progress("reading y.json") as work:
        clock.append(clock[-1] + 10)
        work.update()
    lines = log_file.read_text().splitlines()
    assert lines[0] == "reading x.json: 1.00MB of 3.00MB, 01:40 so far, 03:20 left"
    assert lines[2] == "reading y.json: 1 item, 00:10 so far"


def test_short_work_writes_nothing_into_a_file(log_file):
    assert list(track(iter("ab"), "reading images")) == ["a", "b"]
    assert log_file.read_text() == ""


def test_failed_work_is_not_reported_as_done(log_file, clock):
    def fail():
        for item in track(range(9), "reading images"):
            clock.append(clock[-1] + 11)
            if item == 1:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(log_file.read_text().splitlines()) == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_first_rank_shows_anything(terminal, clock, caplog, monkeypatch, rank):
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: rank)
    with caplog.at_level(logging.INFO):
        for _ in track(range(2), "reading images"):
            clock.append(clock[-1] + 11)
    assert bool(terminal()) == bool(caplog.messages) == (rank == 0)


def test_progress_can_be_turned_off(terminal, clock, caplog):
    with caplog.at_level(logging.INFO):
        for _ in track(range(2), "reading images", shown=False):
            clock.append(clock[-1] + 11)
    assert terminal() == ""
    assert not caplog.messages


def test_tqdm_is_used_only_by_the_progress_module():
    users = [p for p in Path("d2_seesaw").rglob("*.py") if "tqdm" in p.read_text()]
    assert users == [Path("d2_seesaw/utils/progress.py")]


GENERATE = [*(sys.executable, "-m", "d2_seesaw", "generate", "semantic"),
            *("--train-images", "400", "--val-images")]  # fmt: skip


@pytest.mark.slow
def test_a_command_draws_bars_in_a_terminal_but_not_in_a_file(tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = os.environ | {"PYTHONPATH": "."}
    command = [*GENERATE, "1", "--root"]
    with open(tmp_path / "stdout", "w") as stdout:
        process = subprocess.Popen(
            [*command, str(tmp_path / "a")], env=environment, stdout=stdout, stderr=theirs
        )
    os.close(theirs)
    text = "".join(_read_until_closed(ours))
    os.close(ours)
    assert process.wait(timeout=60) == 0
    assert "drawing train images: 100%" in text
    assert "\r" in text
    with open(tmp_path / "log.txt", "w") as file:
        arguments = [*GENERATE, "1", "--root", str(tmp_path / "b")]
        subprocess.run(arguments, check=True, env=environment, stdout=file, stderr=file, timeout=60)
    plain = (tmp_path / "log.txt").read_text()
    assert "\r" not in plain
    assert "generated in" in plain
    assert "%" not in plain


def _read_until_closed(terminal):
    while True:
        try:
            yield os.read(terminal, 1 << 16).decode(errors="ignore")
        except OSError:  # the other end is closed
            return
