"""Options of all tests. What imports torch is in :mod:`tests.support.session`."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runslow", action="store_true", help="also run the tests marked slow")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # The workers of pytest-xdist start when the controller is configured, which runs no test.
    if not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("tests.support.session")
