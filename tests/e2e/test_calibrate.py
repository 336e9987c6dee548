"""A trained model is calibrated and evaluated, each by its command."""

import re

import numpy as np
import pytest
import torch

from d2_seesaw.cli import main
from tests.e2e.test_own_data import CATEGORIES, own_data

pytestmark = pytest.mark.slow
_ = own_data  # a fixture


@pytest.fixture(scope="module")
def trained(own_data, train_net):
    """Train until the model finds objects; return its checkpoint and config."""
    config = str(own_data / "own.py")
    train_net(own_data / "run", "train.max_iter=60", "train.seed=1", config=config)
    return own_data / "run/model_final.pth", config


def fitted(capsys, checkpoint, config, *arguments):
    """Calibrate and return the AP of each exponent."""
    output = checkpoint.with_name("calibrated.pth")
    files = [str(checkpoint), "--config-file", config, "--output", str(output), "--overwrite"]
    main(["calibrate", *files, "--fraction", "1", "--device", "cpu", *arguments])
    rows = re.findall(r"\| +([\d.]+) +\| ([\d.]+) ", capsys.readouterr().out)
    return {float(exponent): float(ap) for exponent, ap in rows}


def test_the_fit_reports_the_ap_that_an_evaluation_of_the_written_checkpoint_has(
    trained, train_net, printed_table, capsys, tmp_path
):
    checkpoint, config = trained
    ap = fitted(capsys, checkpoint, config, "--method", "norcal", "--grid", "0.5")
    assert min(ap.values()) > 5
    assert ap[0] != ap[0.5]
    best = max(ap, key=ap.get)
    evaluation = {"config": config}
    options = [f"train.init_checkpoint={checkpoint.with_name('calibrated.pth')}"]
    options.append("dataloader.test.dataset.names=own_things")  # the images of the fit
    for flags, expected in (([], ap[best]), (["--no-calibration"], ap[0])):
        run = train_net(tmp_path, "--eval-only", *flags, *options, **evaluation)
        assert float(printed_table(run.text)["bbox"].split("|")[0]) == pytest.approx(expected)
        assert ("left out: NorCal" in run.text) == bool(flags)
        assert f"NorCal, gamma {best:g} (fitted on 61 of 61 images of own_things)" in run.text


def test_a_bias_planted_in_the_weights_is_undone_by_its_exponent(trained, capsys):
    checkpoint, config = trained
    content = torch.load(checkpoint)
    # Scores times N_c^0.5 before normalization; classes are in the order of their ids.
    counts = [numbers["train"] for _, (_, numbers, _) in sorted(CATEGORIES.items())]
    bias = content["model"]["roi_heads.box_predictor.cls_score.bias"]
    bias[:3] += 0.5 * torch.tensor(np.log(counts), dtype=bias.dtype)
    biased = checkpoint.with_name("biased.pth")
    torch.save(content, biased)
    grid = ["--method", "norcal", "--grid", "0.25", "0.5", "0.75"]
    plain, other = (fitted(capsys, path, config, *grid) for path in (checkpoint, biased))
    assert other[0.5] == pytest.approx(plain[0], abs=0.01)
    assert other[0.75] == pytest.approx(plain[0.25], abs=0.01)
    assert len(set(other.values())) > 1
