"""The examples for other projects run as they stand."""

import re
from pathlib import Path

import pytest

from d2_seesaw.losses import SeesawLoss
from tests.test_yacs import training_step

TEXT = Path("docs/other_projects.md").read_text()
EXAMPLES = re.findall(r"## (\w+)\n+```python\n(.*?)```", TEXT, re.DOTALL)


def test_one_example_of_each_config_system():
    assert [title for title, _ in EXAMPLES] == ["LazyConfig", "yacs"]
    assert all(len(code.splitlines()) <= 24 for _, code in EXAMPLES)


@pytest.mark.parametrize(("title", "code"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_the_example_builds_and_trains(title, code):
    names = {}
    exec(compile(code, title, "exec"), names)
    loss = names["model"].roi_heads.box_predictor.cls_loss
    assert isinstance(loss, SeesawLoss)
    sum(training_step(names["model"]).values()).backward()
    assert loss.num_classes == 37
    assert loss.class_counts.sum() > 0
