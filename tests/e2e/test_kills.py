"""Training that is killed at any moment resumes, and loses at most one period."""

import pytest

from tests.support.kills import PERIOD, kill_checkpointers, kill_trainings


def check(figures, number):
    assert figures.kills == figures.resumable == number
    assert figures.damaged == []  # no partial file under a final name
    assert figures.most_lost <= PERIOD


@pytest.mark.parametrize("number", [6, pytest.param(180, marks=pytest.mark.slow)])
def test_checkpoints_survive_kills_at_random_moments(tmp_path, number):
    figures = kill_checkpointers(tmp_path / "run", number)
    check(figures, number)
    assert figures.writing.total() > number / 4  # the moments are those that matter
    if number > 100:
        assert figures.writing["model_final.pth"] > 5
        assert figures.writing["last_checkpoint"] > 0


@pytest.mark.slow
def test_whole_trainings_survive_kills_at_random_moments(tmp_path, datasets):
    check(kill_trainings(tmp_path / "run", datasets, 20), 20)
