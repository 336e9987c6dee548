import pytest
from detectron2.utils import comm

from d2_seesaw.utils.ranks import raise_on_all_ranks

# The tests marked "dist" in test_lvis_evaluator.py use real processes.


def test_does_nothing_without_an_error():
    with raise_on_all_ranks():
        pass


@pytest.mark.parametrize("distributed", [True, False])
def test_a_failing_rank_raises_its_own_error(distributed):
    with pytest.raises(KeyError, match="mine"), raise_on_all_ranks(distributed):
        raise KeyError("mine")


def test_the_other_ranks_report_the_failed_rank(monkeypatch):
    monkeypatch.setattr(comm, "all_gather", lambda own: [own, "ValueError: no file"])
    with pytest.raises(RuntimeError, match="rank 1: ValueError: no file"), raise_on_all_ranks():
        pass


def test_a_single_process_does_not_wait(monkeypatch):
    monkeypatch.setattr(comm, "all_gather", lambda own: pytest.fail("waits"))
    with raise_on_all_ranks(False):
        pass
