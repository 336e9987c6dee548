import builtins

import pytest
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig
from detectron2.modeling.backbone.resnet import DeformBottleneckBlock, ResNet
from detectron2.modeling.roi_heads import StandardROIHeads
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import SGD

from d2_seesaw.data import RepeatFactorSampling
from d2_seesaw.engine import ConfigError, apply_overrides, check_config, load_config, train_options
from d2_seesaw.engine.config import accepted_keywords, check_compiled_parts, target_of
from d2_seesaw.engine.config_files import config_name
from d2_seesaw.modeling.roi_heads import LossDrivenOutputLayers

QUICKSTART = "configs/quickstart/seesaw.py"


def small_config():
    return DictConfig(
        {
            "model": L(StandardROIHeads)(num_classes=3, batch_size_per_image=8),
            "optimizer": L(SGD)(lr=0.1, params=None),
            "dataloader": {"train": {"sampling": L(RepeatFactorSampling)(threshold=0.1)}},
            "train": train_options(),
        },
        flags={"allow_objects": True},
    )


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("train.max_itr=5", "train.max_iter"),
        ("train.amp.enabld=True", "train.amp.enabled"),
        ("model.num_clases=3", "model.num_classes"),
        ("optimizerr.lr=0.1", "optimizer.lr"),
        ("dataloader.trian.sampling.threshold=0.1", "dataloader.train.sampling.threshold"),
        ("dataloader.train.sampling.roundin=ceil", "dataloader.train.sampling.rounding"),
        ("max_iter=5", "train.max_iter"),
    ],
)
def test_a_misspelled_key_is_rejected_with_a_suggestion(override, suggestion):
    with pytest.raises(ConfigError, match=f"did you mean '{suggestion}'"):
        apply_overrides(small_config(), [override])


def test_a_key_of_one_predictor_is_rejected_with_that_of_the_first_stage_of_a_cascade():
    with pytest.raises(ConfigError, match=r"did you mean '(.*)'") as error:
        apply_overrides(
            load_config("quickstart/htc_lite"), ["model.roi_heads.box_predictor.cls_loss.p=1"]
        )
    assert "'model.roi_heads.box_predictors.0.cls_loss.p'" in str(error.value)


def _keys(node, path=()):
    for key in node:
        yield (*path, str(key))
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not (child._is_none() or child._is_interpolation()):
            yield from _keys(child, (*path, str(key)))


def _one_edit(word):
    yield word[1:]
    yield word[:-1]
    yield word + "x"
    yield word[:1] + word[2:]
    if len(word) > 2 and word[1] != word[2]:
        yield word[0] + word[2] + word[1] + word[3:]


def test_every_one_edit_typo_of_every_quickstart_key_is_rejected():
    cfg = load_config(QUICKSTART)
    keys = [key for key in _keys(cfg) if key[-1] != "_target_"]
    assert len(keys) > 100
    accepted = []
    for key in keys:
        siblings = set(OmegaConf.select(cfg, ".".join(key[:-1])) if key[:-1] else cfg)
        for typo in set(_one_edit(key[-1])) - siblings - {""}:
            text = ".".join((*key[:-1], typo)) + "=1"
            try:
                apply_overrides(cfg, [text])
            except ConfigError:
                continue
            accepted.append(text)
    assert accepted == []


def test_a_key_missing_in_the_config_but_accepted_by_the_target_is_allowed():
    cfg = apply_overrides(
        small_config(), ["model.train_on_pred_boxes=True", "optimizer.momentum=0.9"]
    )
    assert cfg.model.train_on_pred_boxes is True
    assert cfg.optimizer.momentum == 0.9


def test_plus_adds_an_unknown_key():
    cfg = apply_overrides(small_config(), ["+train.note=hello"])
    assert cfg.train.note == "hello"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.output_dir=./out/x", "./out/x"),
        ("train.output_dir='a=b'", "a=b"),
        ("train.output_dir=/data/runs/1", "/data/runs/1"),
    ],
)
def test_paths_need_no_quoting(override, expected):
    assert apply_overrides(small_config(), [override]).train.output_dir == expected


def test_list_entries_are_addressed_by_index_and_bad_indices_reported():
    cfg = load_config("configs/lvis_v1_seesaw.py")
    key = "dataloader.train.mapper.augmentations"
    apply_overrides(cfg, [f"{key}.0.max_size=999"])
    assert cfg.dataloader.train.mapper.augmentations[0].max_size == 999
    with pytest.raises(ConfigError, match=r"is a list of 2, got index '7'"):
        apply_overrides(cfg, [f"{key}.7.max_size=999"])


@pytest.mark.parametrize("override", ["train.max_iter", "~train.max_iter", "train.max_iter=[1"])
def test_an_unreadable_override_is_reported(override):
    with pytest.raises(ConfigError, match="cannot read the override"):
        apply_overrides(small_config(), [override])


def test_a_key_below_a_value_is_rejected():
    with pytest.raises(ConfigError, match=r"train.seed is -1 and has no keys"):
        apply_overrides(small_config(), ["train.seed.value=1"])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("modle", "unknown top-level key 'modle' in the config; did you mean 'model'"),
        ("train.max_itr", "unknown key train.max_itr; did you mean 'train.max_iter'"),
        ("train.ddp.find_unused", "unknown key train.ddp.find_unused; did you mean"),
        ("optimizer.momentun", "optimizer.momentun is not an argument of SGD; did you mean"),
        ("dataloader.train.sampling.treshold", "is not an argument of RepeatFactorSampling; did"),
    ],
)
def test_a_misspelled_key_in_the_file_is_rejected(key, message):
    cfg = small_config()
    OmegaConf.update(cfg, key, {} if "." not in key else 1, force_add=True)
    with pytest.raises(ConfigError, match=message):
        check_config(cfg)


def test_a_group_of_train_options_must_be_a_group():
    cfg = small_config()
    cfg.train.amp = True
    with pytest.raises(ConfigError, match=r"train.amp must hold \['dtype', 'enabled'\], got True"):
        check_config(cfg)


def test_a_target_that_cannot_be_imported_is_reported():
    cfg = small_config()
    cfg.model._target_ = "d2_seesaw.no_such.Thing"
    with pytest.raises(ValueError, match=r"'d2_seesaw.no_such.Thing' cannot be imported"):
        check_config(cfg)


def test_a_missing_file_is_reported_with_a_suggestion():
    with pytest.raises(FileNotFoundError, match=r"v1_sesaw.py.* did you mean .*v1_seesaw"):
        load_config("configs/lvis_v1_sesaw.py")


def test_an_error_inside_a_config_restores_pythons_import(tmp_path):
    before = builtins.__import__
    (tmp_path / "bad.py").write_text("raise RuntimeError('inside')")
    with pytest.raises(ConfigError, match="line 1: RuntimeError: inside"):
        load_config(str(tmp_path / "bad.py"))
    assert builtins.__import__ is before


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("configs/lvis_v1_seesaw.py", "lvis_v1_seesaw"),
        ("configs/lvis_v1/x.py", "lvis_v1/x"),
        ("/site-packages/d2_seesaw/configs/challenge/step00.py", "challenge/step00"),
        ("/configs/project/configs/mine/v1.5.py", "mine/v1.5"),
        ("configs/../mine.py", "mine"),
        ("/data/runs/mine.yaml", "mine"),
    ],
)
def test_a_configs_name_is_its_path_below_the_nearest_configs_folder(path, expected):
    assert config_name(path) == expected


@pytest.mark.parametrize(
    ("line", "overrides", "expected"),
    [
        ("", [], "output/mine"),
        ("train['output_dir'] = 'elsewhere'", [], "elsewhere"),
        ("train['output_dir'] = 'elsewhere'", ["train.output_dir=null"], "output/mine"),
        ("", ["train.output_dir=here"], "here"),
    ],
)
def test_the_output_folder_follows_from_the_name_unless_it_is_set(
    tmp_path, line, overrides, expected
):
    path = tmp_path / "mine.py"
    path.write_text(f"from d2_seesaw.engine import train_options\ntrain = train_options()\n{line}")
    assert load_config(str(path), overrides).train.output_dir == expected


def test_a_saved_config_keeps_its_output_folder(tmp_path):
    path = tmp_path / "configs/config.yaml"
    path.parent.mkdir()
    LazyConfig.save(load_config(QUICKSTART), str(path))
    assert load_config(str(path)).train.output_dir == "output/quickstart/seesaw"


def test_a_saved_config_passes_the_same_checks(tmp_path):
    cfg = load_config(QUICKSTART, ["train.max_iter=7"])
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    again = load_config(str(tmp_path / "config.yaml"), ["train.seed=3"])
    assert (again.train.max_iter, again.train.seed) == (7, 3)
    with pytest.raises(ConfigError, match=r"did you mean 'train.seed'"):
        load_config(str(tmp_path / "config.yaml"), ["train.sed=3"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"model: [1, 2\ntrain: 3\n", "cannot be read: .* but got ':' .*line 2"),
        (b"model:\n\t- 1\n", "cannot be read: .*line 2"),
        (b"\xff\xfe\x00", "cannot be read: .*codec can't decode"),
        (b"", "is empty"),
    ],
)
def test_a_yaml_file_that_cannot_be_read_is_reported_in_one_line(tmp_path, content, message):
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"c\.yaml' {message}") as error:
        load_config(str(tmp_path / "c.yaml"))
    assert "\n" not in str(error.value)


@pytest.fixture
def not_compiled(monkeypatch):
    """Simulate a Detectron2 without its extension module."""
    monkeypatch.setattr("d2_seesaw.engine.config.importlib.util.find_spec", lambda name: None)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.roi_heads.box_pooler.pooler_type=ROIAlignRotated", "ROIAlignRotated"),
        (
            "model.proposal_generator._target_=detectron2.modeling.proposal_generator.rrpn.RRPN",
            "RRPN",
        ),
    ],
)
def test_parts_that_need_compiled_detectron2_are_rejected_in_one_line(
    not_compiled, override, named
):
    with pytest.raises(ConfigError, match=f"{named} needs the compiled part") as error:
        load_config(QUICKSTART, [override])
    assert override.split("=")[0] in str(error.value)
    assert "python -m d2_seesaw.install_detectron2 git" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_class_that_needs_compiled_detectron2_is_rejected(not_compiled):
    stage = L(ResNet.make_stage)(block_class=DeformBottleneckBlock, num_blocks=1)
    with pytest.raises(ConfigError, match=r"^model\.stages\.0\.block_class=.*DeformBottleneckBlo"):
        check_compiled_parts(
            OmegaConf.create({"model": {"stages": [stage]}}, flags={"allow_objects": True})
        )


def test_with_the_extension_module_nothing_is_rejected(monkeypatch):
    monkeypatch.setattr("d2_seesaw.engine.config.importlib.util.find_spec", lambda name: object())
    load_config(
        "configs/quickstart/seesaw.py", ["model.roi_heads.box_pooler.pooler_type=ROIAlignRotated"]
    )


def test_a_constructor_that_forwards_options_accepts_its_bases_options():
    known = accepted_keywords(LossDrivenOutputLayers) or set()
    assert {"cls_loss", "cls_score", "test_score_thresh", "cls_agnostic_bbox_reg"} <= known
    assert "self" not in known
    assert {"mask_head", "batch_size_per_image"} <= (accepted_keywords(StandardROIHeads) or set())


def test_functions_with_arbitrary_keywords_are_not_checked():
    def anything(a, **rest):
        return a, rest

    assert accepted_keywords(anything) is None


def test_positional_only_arguments_are_not_keywords():
    def function(a, /, b, *, c):
        return a, b, c

    assert accepted_keywords(function) == {"b", "c"}


def test_targets_are_found_by_name():
    assert target_of({"_target_": "torch.nn.Linear"}) is nn.Linear
    with pytest.raises(ValueError, match=r"'torch.nn.Lineer' cannot be imported"):
        target_of({"_target_": "torch.nn.Lineer"})


def test_every_call_returns_new_options():
    train_options()["amp"]["enabled"] = True
    assert train_options()["amp"]["enabled"] is False


def test_an_unknown_option_is_reported():
    with pytest.raises(TypeError, match=r"unknown train options \['epoch'\]"):
        train_options(epoch=3)
