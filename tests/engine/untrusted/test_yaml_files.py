"""YAML configs: damaged, exploding and private content is refused in a line."""

import time

import pytest
from omegaconf import OmegaConf

from d2_seesaw.engine import ConfigError, load_config
from d2_seesaw.engine.untrusted import resolve_names, yaml_files
from d2_seesaw.engine.untrusted.yaml_files import MAX_BYTES, Unresolved, read_yaml_config

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 400))
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}], x{i}: 1}}\n" for i in range(1, 40)
)
REFERENCES = "train: {a0: [x, x], " + "".join(
    f"a{i}: ['${{train.a{i - 1}}}', '${{train.a{i - 1}}}'], " for i in range(1, 40)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "has more than 100000 values, repeated ones included"),
        (MERGES, "has more than 100000 values, repeated ones included"),
        ("a: &a [*a]\n", "has an anchor that contains itself"),
        ("a: &a {b: *a}\n", "has an anchor that contains itself"),
        ("a: " + "[" * 60 + "]" * 60, "is nested more than 50 levels deep"),
        ("a: " + "[" * 5000, "is nested more than 50 levels deep"),
        ("- " * 5000, "is nested more than 50 levels deep"),
        ("a: " + "{a: [" * 2500, "is nested more than 50 levels deep"),
        (CHAIN, "is nested too deeply"),
        ("a: '${oc.env:HOME}'\n", r"has a='\$\{oc.env:HOME\}': expected at most one reference"),
        ("a: ['x', '${ oc.env:HOME }']\n", r"has a\[1\]="),
        ("a: '${oc.decode:5}'\n", ".* without a resolver"),
        ("a: '${b}${b}'\n", ".* at most one reference"),
        ("a: '${b.${c}}'\n", ".* at most one reference"),
        ("a: '${}'\n", ".* at most one reference"),
        ("a: !unknown 1\n", "cannot be read: could not determine a constructor"),
        ("a: !!bool x\n", "cannot be read"),
        ("a: !!timestamp x\n", "cannot be read"),
        (f"a: {'9' * 5000}\n", "cannot be read"),
        ("? [a, b]\n: 1\n", "cannot be read: .*unhashable key"),
        ("- 1\n", "must have keys and values, got a list"),
        ("", "is empty"),
        ("a: 1\n---\nb: 2\n", "cannot be read: expected a single document"),
        ("#" * (MAX_BYTES + 1), f"has {MAX_BYTES + 1} bytes, the limit is {MAX_BYTES}"),
    ],
    ids=lambda text: text[:30],
)
def test_such_a_file_is_refused_in_one_line_and_in_no_time(tmp_path, text, message):
    (path := tmp_path / "c.yaml").write_text(text)
    began = time.process_time()
    with pytest.raises(ConfigError, match=rf"config '.*c\.yaml' {message}") as error:
        read_yaml_config(path)
    assert time.process_time() - began < 2
    assert "\n" not in str(error.value)


def test_nothing_is_read_after_too_many_values(tmp_path, monkeypatch):
    monkeypatch.setattr(yaml_files, "MAX_VALUES", 100)
    (path := tmp_path / "c.yaml").write_text("a: [" + "x, " * 2000 + "}")
    with pytest.raises(ConfigError, match="has more than 100 values, repeated ones included"):
        read_yaml_config(path)


def test_a_file_that_this_run_wrote_may_refer_to_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MINE", "5")
    (path := tmp_path / "c.yaml").write_text("a: '${oc.env:MINE}'\n")
    assert read_yaml_config(path, is_own=True).a == "5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (REFERENCES + "}\n", "train has more than 10000 values"),
        ("train: {a: '${train.b}', b: '${train.a}'}\n", "cannot be read"),
        ("train: {a: {b: '${train.a}'}}\n", "levels deep|cannot be read"),
        ("train: {a: '${train.c}'}\n", "cannot be read: .*'train.c' not found"),
        ("train: '${train}'\n", "cannot be read"),
    ],
    ids=lambda text: text[:30],
)
def test_references_that_explode_or_lead_nowhere_are_refused(tmp_path, text, message):
    (path := tmp_path / "c.yaml").write_text(text)
    began = time.process_time()
    with pytest.raises(ConfigError, match=message) as error:
        load_config(str(path))
    assert time.process_time() - began < 10
    assert "\n" not in str(error.value)


def test_numbers_in_base_60_are_text(tmp_path):
    """YAML 1.1 has them, and long ones take minutes to convert."""
    long = "1" + ":59" * 600_000
    (path := tmp_path / "c.yaml").write_text(f"a: {long}\nb: 1:30.5\nc: 0x1F\n")
    cfg = read_yaml_config(path)
    assert (cfg.a, cfg.b, cfg.c) == (long, "1:30.5", 31)


def test_plain_values_tuples_and_references_are_read(tmp_path):
    text = "a: !!python/tuple [1, 2.5]\nb: ${a}\nc: x/${d}\nd: é\ne: [true, null, 1.0e-05]\n"
    (path := tmp_path / "c.yaml").write_text(text, encoding="utf-8-sig")
    cfg = read_yaml_config(path)
    expected = {"a": [1, 2.5], "b": [1, 2.5], "c": "x/é", "d": "é", "e": [True, None, 1e-5]}
    assert OmegaConf.to_container(cfg, resolve=True) == expected


def test_names_are_resolved_in_the_given_parts_alone(tmp_path):
    text = "model: {_target_: torch.nn.Identity}\ntta: {_target_: no.Such}\nother: '${model}'\n"
    (path := tmp_path / "c.yaml").write_text(text)
    cfg = read_yaml_config(path)
    assert isinstance(cfg.model._target_, Unresolved)
    resolve_names(cfg, ("model", "lr_multiplier"), "c.yaml")
    assert cfg.model._target_.__name__ == cfg.other._target_.__name__ == "Identity"
    assert isinstance(cfg.tta._target_, Unresolved)
    with pytest.raises(ConfigError, match=r"'c.yaml': tta._target_ names no.Such, .*--trust"):
        resolve_names(cfg, ("tta",), "c.yaml")


def test_a_part_that_was_resolved_for_another_one_is_checked_again(tmp_path):
    text = "optimizer: {_target_: torch.optim.SGD}\nmodel: {x: '${optimizer}'}\n"
    (path := tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"model.x._target_ names .*SGD"):
        resolve_names(read_yaml_config(path), ("optimizer", "model"), "c.yaml")
