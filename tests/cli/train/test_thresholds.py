"""Hook of score thresholds after evaluations that a resumed training does not repeat."""

from types import SimpleNamespace

import pytest

from d2_seesaw.cli.train.thresholds import ThresholdsHook
from d2_seesaw.evaluation.analysis.threshold_file import read_thresholds, write_thresholds
from tests.evaluation.analysis.test_threshold_file import SPLIT


@pytest.mark.parametrize("name", ["model_final.pth", "model_best.pth"])
def test_a_recorded_evaluation_leaves_no_thresholds_of_another_checkpoint(tmp_path, name, caplog):
    path = tmp_path / name
    best = SimpleNamespace(metric="segm/AP", best={"iteration": 0})
    hook = ThresholdsHook(SimpleNamespace(thresholds=None), best, str(tmp_path))
    hook.trainer = SimpleNamespace(start_iter=1, iter=1, max_iter=1)

    def resumed():
        hook.before_train()
        hook.after_train()

    path.write_bytes(b"trained")
    file = write_thresholds(path, SPLIT)
    resumed()
    assert read_thresholds(path).dataset == "my_val"
    path.write_bytes(b"trained further")
    resumed()
    assert not file.exists()
    assert "Removed score thresholds that cannot be used" in caplog.text
    assert "--eval-only" in caplog.text
    hook.evaluator.thresholds = SPLIT
    resumed()
    assert read_thresholds(path).dataset == "my_val"
