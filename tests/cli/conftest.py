"""Fixture that keeps the commands from changing the loggers of other tests."""

import pytest

from tests.support.loggers import loggers_kept


@pytest.fixture(autouse=True)
def _loggers_kept():
    with loggers_kept():
        yield
