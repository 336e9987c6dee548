"""Settings of a process that runs tests, and the fixtures of all tests."""

import gc
import importlib
import os
import random
from collections.abc import Generator, Iterator

import hypothesis
import numpy as np
import pytest
import torch

from tests.support.loggers import loggers_kept
from tests.support.shipped_configs import executed_once


def pytest_configure(config: pytest.Config) -> None:
    # The tensors are small, so threads would mostly wait for each other. On a busy machine a file
    # of loss tests took 9 s with several threads, and 2 s with one.
    torch.set_num_threads(1)
    # The same cases in each run. Calls under test have a limit of their own, see tests/fuzz.
    every = {"derandomize": True, "deadline": None, "database": None}
    hypothesis.settings.register_profile(
        "few", max_examples=15, suppress_health_check=list(hypothesis.HealthCheck), **every
    )
    hypothesis.settings.register_profile(
        "many", hypothesis.settings.get_profile("few"), max_examples=1000
    )
    hypothesis.settings.load_profile("many" if config.getoption("--runslow") else "few")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without garbage collections, and make later ones fewer and cheaper.

    Modules and tests live to the end, and each full collection would go through them: 0.5 s.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(10_000, 10, 10)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {}
    if not config.getoption("--runslow"):
        reasons["slow"] = "needs --runslow"
    # D2_SEESAW_TEST_DEVICE=cpu runs tests/gpu on a machine without a GPU.
    if not torch.cuda.is_available() and os.environ.get("D2_SEESAW_TEST_DEVICE", "cuda") == "cuda":
        reasons["gpu"] = "needs CUDA"
    for item in items:
        for marker, reason in reasons.items():
            if marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def _configs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Execute each shipped config once, for all processes of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp().parent / "configs"  # of this test run under xdist
    shared = "PYTEST_XDIST_WORKER" in os.environ
    if shared:
        folder.mkdir(exist_ok=True)
    with executed_once(folder if shared else None):
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_disks() -> Iterator[None]:
    """Let no file wait until it is on the disk. Tests of that replace ``fsync`` themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the charts out of pages, of which they take nearly all the time.

    They are drawn in ``tests/report``, and by whole trainings in ``tests/e2e``.
    """
    render = importlib.import_module("d2_seesaw.report.render")
    monkeypatch.setattr(render, "render_svg", lambda chart, prefix: f'<svg id="{prefix}"/>')


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Seed all generators, so that random numbers do not depend on earlier tests."""
    random.seed(0)
    np.random.seed(0)
    if torch.cuda.is_available():
        torch.manual_seed(0)
    else:
        # The other function notes the stack of its caller for every kind of device.
        torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    """Keep what a test does to the loggers from the other tests."""
    with loggers_kept():
        yield
