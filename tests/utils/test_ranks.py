import pytest
from detectron2.utils import comm

from d2_seesaw.utils.ranks import raise_on_all_ranks

# With real processes: see the tests marked "dist" in test_lvis_evaluator.py.


def test_passes_where_nothing_fails():
    with raise_on_all_ranks():
        pass


@pytest.mark.parametrize("distributed", [True, False])
def test_a_failing_rank_raises_its_own_error(distributed):
    with pytest.raises(KeyError, match="mine"), raise_on_all_ranks(distributed):
        raise KeyError("mine")


def test_the_other_ranks_name_the_rank_that_failed(monkeypatch):
    monkeypatch.setattr(comm, "all_gather", lambda own: [own, "ValueError: no file"])
    with pytest.raises(RuntimeError, match="rank 1: ValueError: no file"), raise_on_all_ranks():
        pass


def test_a_process_on_its_own_does_not_wait_for_others(monkeypatch):
    monkeypatch.setattr(comm, "all_gather", lambda own: pytest.fail("waits"))
    with raise_on_all_ranks(False):
        pass
