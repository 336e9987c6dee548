from pathlib import Path

import pytest
import torch
from torch import nn

from d2_seesaw.cli.train.evaluating import build_model
from d2_seesaw.engine import Trainer, load_config

CONFIG = str(Path(__file__).resolve().parents[3] / "configs/quickstart/seesaw.py")


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_option_sets_the_format_and_a_resumed_training_compares_it(channels_last):
    cfg = load_config(CONFIG, [f"train.channels_last={channels_last}", "train.device=cpu"])
    model = build_model(cfg)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convs) > 10
    formats = {m.weight.is_contiguous(memory_format=torch.channels_last) for m in convs}
    assert formats == {channels_last}
    trainer = Trainer(model, [], torch.optim.SGD(model.parameters(), 0.1))
    assert trainer.state_dict()["resume"]["environment"]["channels_last"] is channels_last
