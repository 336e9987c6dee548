import pytest
from detectron2.utils import comm

from d2_seesaw.utils.ranks import failing_together

# With real processes: see the tests marked "dist" in test_lvis_evaluation.py.


def test_passes_where_nothing_fails():
    with failing_together():
        pass


@pytest.mark.parametrize("distributed", [True, False])
def test_a_failing_rank_raises_its_own_error(distributed):
    with pytest.raises(KeyError, match="mine"), failing_together(distributed):
        raise KeyError("mine")


def test_the_other_ranks_name_the_rank_that_failed(monkeypatch):
    monkeypatch.setattr(comm, "all_gather", lambda own: [own, "ValueError: no file"])
    with pytest.raises(RuntimeError, match="rank 1: ValueError: no file"), failing_together():
        pass


def test_a_process_on_its_own_does_not_wait_for_others(monkeypatch):
    monkeypatch.setattr(comm, "all_gather", lambda own: pytest.fail("waits"))
    with failing_together(False):
        pass
