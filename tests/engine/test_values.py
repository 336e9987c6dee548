"""Odd overrides and configs: one line each, and never a traceback."""

import copy

import pytest

from d2_seesaw.engine import ConfigError, apply_overrides, load_config
from d2_seesaw.engine.values import check_values
from tests.support.configs import QUICKSTART, read


def checked(text):
    check_values(apply_overrides(copy.deepcopy(read(QUICKSTART)), [text]))


def refused(text):
    with pytest.raises(ConfigError) as error:
        checked(text)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer.lr=abc", "optimizer.lr must be a number as 0.001 is, got 'abc'"),
        ("optimizer.lr=nan", "optimizer.lr must be a finite number, got nan"),
        ("optimizer.lr=-1", "optimizer.lr must be a number of at least 0, got -1"),
        ("optimizer.lr=[1", "cannot read the override 'optimizer.lr=[1': "),
        ("optimizer.lr={a:1}", "got {'a': 1}"),
        ("optimizer.lr=1,2", "expected KEY=VALUE with one value"),
        ("optimizer.lr=${nothing}", "optimizer.lr cannot be resolved: "),
        ("optimizer.lr=${optimizer.lr}", "optimizer.lr cannot be resolved: "),
        ("model=1", "model is a section with keys, got 1: model.KEY=VALUE"),
        ("model=null", "model is a section with keys, got None"),
        ("+model=1", "model is a section with keys, got 1"),
        ("train=[]", "cannot read the override 'train=[]'"),
        ("train.amp=3", "train.amp is a section with keys"),
        ("train.amp.enabled=2", "train.amp.enabled must be true or false, got 2"),
        ("train.max_iter=-1", "a whole number of at least 1 or null, got -1"),
        ("train.max_iter=1.5", "a whole number of at least 1 or null, got 1.5"),
        ("train.max_iter=3.0", "a whole number of at least 1 or null, got 3.0"),
        ("train.seed=4294967296", "train.seed must be a whole number below 2**32"),
        ("train.checkpointer=null", "train.checkpointer is a section with keys, got None"),
        ("train.max_iter=1e400", "train.max_iter must be a finite number, got inf"),
        ("train.max_iter=", "train.max_iter must be a number as 600 is, got ''"),
        ("+train.max_iter.x=1", "train.max_iter must be"),
        ("train.max_bad_images=-1", "train.max_bad_images must be a whole number of at least 0"),
        ("train.ema.decay=1", "train.ema.decay must be a number of at least 0 and below 1, got 1"),
        ("model.roi_heads.num_classes=2.5", "must be a whole number of at least 1, got 2.5"),
        ("model.pixel_mean=[nan,1,2]", "model.pixel_mean must be a finite number, got nan"),
        ("dataloader.train.total_batch_size=0", "must be a whole number of at least 1, got 0"),
        ("model@x=1", "expected KEY=VALUE"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_was_expected(text, message):
    assert message in refused(text)


@pytest.mark.parametrize(
    "text",
    [
        *("=", "a=", "", "\n", "a\nb=1", "'", '"a', "\\", "a=b=c", "--foo", "a b=c", ".train=1"),
        *(
            "train.=1",
            "train..x=1",
            "[]=1",
            "train[0]=1",
            "中文=1",
            "optimizer.lr=\uff11",
            "\udcff=1",
        ),
        *("optimizer.lr=" + "[" * 3000, "x" * 100_000, "train.max_iter=" + "9" * 5000, "~model"),
        *("train.unknown=1", "train.output_dir=\0", "optimizer.lr=${", "train.seed=\udcff"),
    ],
)
def test_what_is_no_override_is_one_short_line(text):
    refused(text)


@pytest.mark.parametrize(
    "text",
    [
        *("optimizer.lr=1", "train.max_iter=null", "train.clip_grad.max_norm=null"),
        *("model.roi_heads.mask_head=null", "dataloader.train.dataset.names=[a,b]"),
        *("dataloader.train.mapper.image_format=${model.input_format}", "train.seed=-1"),
        *("optimizer.weight_decay=0.5", "model.roi_heads.box_predictor.test_score_thresh=[0.1]"),
        *("train.ema={enabled:true}", "++train.seed=3", "train.output_dir=null"),
    ],
)
def test_values_of_another_fitting_kind_are_accepted(text):
    checked(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: 5\n", "train must be a section with keys, got 5"),
        ("model: [1]\n", "model must be a section with keys"),
        ("- 1\n- 2\n", "must have keys and values, got a list"),
        ("5\n", "must have keys and values, got a int"),
        ("train: {max_iter: many}\n", "train.max_iter must be a whole number"),
        ("lr_multiplier: {_target_: nothing.here}\n", "lr_multiplier._target_ names nothing.here"),
        ("lr_multiplier: {_target_: 7}\n", "_target_ must be the name of a class or function"),
        ("a: b: c\n", "cannot be read: mapping values are not allowed"),
    ],
)
def test_a_yaml_config_of_another_form_is_named(tmp_path, content, message):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_config(str(path))


def test_a_fault_in_a_python_config_is_named_with_its_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("train = dict()\n\nmodel = nothing\n")
    with pytest.raises(ConfigError, match=r"mine.py' cannot be read, line 3: NameError: .*nothing"):
        load_config(str(path))


@pytest.mark.parametrize("override", ["lr_multiplier._target_=nothing.here"])
def test_an_override_of_a_target_is_checked_like_the_config(override):
    with pytest.raises(ValueError, match=r"'nothing.here' cannot be imported"):
        load_config(str(QUICKSTART), [override])
