"""`d2-seesaw convert` on small files in mmdet's layout, whose tensors each store one number."""

import json
import os
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from d2_seesaw.checkpoint import MmdetModel, StrictCheckpointer
from d2_seesaw.cli.convert import is_norm_mask, main, recipe_for
from d2_seesaw.engine import load_config
from d2_seesaw.layers import NormedConv2d
from tests.checkpoint.mmdet_shapes import mmdet_shapes
from tests.support.configs import CheapMetaTensors, meta_device

ZOO = "mask_rcnn_r50_fpn_random_seesaw_loss_mstrain_2x_lvis_v1-a698dd3d.pth"
SMALL = {"depth": 50, "num_classes": 5}


@pytest.fixture(autouse=True)
def _cheap_meta_tensors():
    """Build the models whose shapes the command compares without random numbers."""
    with CheapMetaTensors():
        yield


def write(path, meta=None, **shapes):
    state = {k: torch.tensor(0.0).expand(s) for k, s in mmdet_shapes(**(SMALL | shapes)).items()}
    counts = [key for key in state if key.endswith("cum_samples")]
    state |= {key: torch.arange(float(len(state[key]))) for key in counts}
    torch.save({"meta": meta or {}, "state_dict": state}, path)
    return str(path)


def test_the_checkpoint_loads_into_the_named_config(tmp_path, capsys):
    output = tmp_path / "new" / "ours.pth"
    main([write(tmp_path / ZOO), str(output)])
    printed = capsys.readouterr().out
    assert "Mask R-CNN R-50, Seesaw Loss, 5 classes, plain mask predictor, 308 tensors" in printed
    (command,) = [line for line in printed.splitlines() if line.startswith("evaluate: ")]
    _, *words = command.split()
    assert words[:4] == ["d2-seesaw", "train", "--eval-only", "--config-file"]
    config, checkpoint, *overrides = words[4:]
    assert checkpoint == f"train.init_checkpoint={output}"
    model = instantiate(load_config(config, overrides).model)
    StrictCheckpointer(model, require_all=True).load(str(output))
    assert model.roi_heads.box_predictor.cls_loss.class_counts.tolist() == [0, 1, 2, 3, 4, 5]
    saved = torch.load(output, weights_only=True)
    assert saved["__author__"]
    # The five classes are unknown; Seesaw Loss has a normalized classifier.
    assert saved["metadata"] == {"normalized_layers": ["roi_heads.box_predictor.cls_score"]}


def test_a_model_of_lvis_v1_gets_the_names_of_its_classes(tmp_path):
    main([write(tmp_path / ZOO, num_classes=1203), str(tmp_path / "ours.pth")])
    metadata = torch.load(tmp_path / "ours.pth", weights_only=True)["metadata"]
    assert metadata["class_names"][:2] == ["aerosol_can", "air_conditioner"]
    assert metadata["category_ids"] == list(range(1, 1204))


@pytest.mark.parametrize(
    ("meta", "names"),
    [
        ({"CLASSES": ("a", "b", "c", "d", "e")}, list("abcde")),
        ({"dataset_meta": {"classes": ("a", "b", "c", "d", "e")}}, list("abcde")),
        ({"CLASSES": ("a", "b")}, None),
        ({"CLASSES": None}, None),
    ],
)
def test_the_class_names_in_a_file_are_kept_if_they_are_its_classes(tmp_path, meta, names):
    main([write(tmp_path / ZOO, meta), str(tmp_path / "ours.pth")])
    metadata = torch.load(tmp_path / "ours.pth", weights_only=True)["metadata"]
    assert metadata.get("class_names") == names


def test_an_existing_file_is_replaced_on_request_only(tmp_path, capsys):
    output = tmp_path / "ours.pth"
    output.write_text("precious")
    arguments = [write(tmp_path / ZOO), str(output)]
    with pytest.raises(SystemExit, match=r"ours\.pth exists; --overwrite replaces it"):
        main(arguments)
    assert output.read_text() == "precious"
    main([*arguments, "--overwrite"])
    assert "model" in torch.load(output)


def test_a_malicious_file_is_refused_and_not_executed(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    torch.save({"state_dict": {}, "meta": Malicious()}, tmp_path / ZOO)
    with pytest.raises(SystemExit, match=r"posix\.system.* run code .*--trust"):
        main([str(tmp_path / ZOO), str(tmp_path / "ours.pth")])
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "ours.pth").exists()


def test_weights_that_do_not_fit_write_nothing(tmp_path):
    shapes = mmdet_shapes(**SMALL)
    shapes["rpn_head.rpn_cls.bias"] = (9,)
    state = {k: torch.tensor(0.0).expand(s) for k, s in shapes.items()}
    torch.save({"state_dict": state}, tmp_path / ZOO)
    with pytest.raises(SystemExit, match=r"objectness_logits.bias: \(9,\) in the file, \(3,\)"):
        main([str(tmp_path / ZOO), str(tmp_path / "ours.pth")])
    assert not (tmp_path / "ours.pth").exists()


@pytest.mark.parametrize(
    ("given", "config", "name", "expected"),
    [
        ("norm", "", "x.pth", True),
        ("plain", "type='NormedConv2d'", "seesaw_loss_normed_mask.pth", False),
        (None, "predictor_cfg=dict(type='NormedConv2d')", "x.pth", True),
        (None, "cls_predictor_cfg=dict(type='NormedLinear')", "x_normed_mask.pth", False),
        (None, "", ZOO, False),
        (None, "", "cascade_mask_rcnn_r101_fpn_random_seesaw_loss_normed_mask_mstrain.pth", True),
        (None, "", "mask-rcnn_r50_fpn_seesaw-loss-normed-mask_random-ms-2x_lvis-v1.pth", True),
    ],
)
def test_flag_then_config_then_name_determine_the_mask_predictor(given, config, name, expected):
    assert is_norm_mask(given, config, name) == expected


def test_the_flag_is_required_if_the_file_gives_no_hint(tmp_path, capsys):
    path = write(tmp_path / "epoch_24.pth")
    with pytest.raises(SystemExit, match="give --mask plain or --mask norm"):
        main([path, str(tmp_path / "ours.pth")])
    main([path, str(tmp_path / "ours.pth"), "--mask", "norm"])
    assert "configs/mmdet/mask_rcnn_r50_fpn_seesaw_norm_mask.py" in capsys.readouterr().out


@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize("depth", [50, 101])
@pytest.mark.parametrize("seesaw", [False, True])
@pytest.mark.parametrize("norm_mask", [False, True])
def test_every_recipe_names_an_existing_config_that_fits(cascade, depth, seesaw, norm_mask):
    recipe = recipe_for(MmdetModel(depth, cascade, 7, seesaw), norm_mask)
    assert Path(recipe.config).is_file()
    cfg = load_config(recipe.config, recipe.overrides)
    assert cfg.model.backbone.bottom_up.stages.depth == depth
    assert cfg.model.roi_heads.num_classes == 7
    assert ("box_predictors" in cfg.model.roi_heads) == cascade
    with meta_device():
        mask_heads = instantiate(cfg.model).roi_heads.mask_head
    for head in mask_heads if cascade else [mask_heads]:
        assert isinstance(head.predictor, NormedConv2d) == norm_mask
    assert ("seesaw" in recipe.config) == seesaw


@pytest.mark.parametrize("seesaw", [False, True])
@pytest.mark.parametrize("semantic", [0, 6])
def test_the_recipe_of_htc_fits(seesaw, semantic):
    model = MmdetModel(101, True, 7, seesaw, htc=True, semantic_classes=semantic)
    recipe = recipe_for(model, norm_mask=seesaw)
    cfg = load_config(recipe.config, recipe.overrides)
    assert cfg.model.backbone.bottom_up.stages.depth == 101
    with meta_device():
        heads = instantiate(cfg.model).roi_heads
    assert {len(p.cls_score.bias) for p in heads.box_predictor} == {9 if seesaw else 8}
    for head in heads.mask_head:
        assert isinstance(head.predictor, NormedConv2d) == seesaw
        assert head.predictor.out_channels == 7
    assert (heads.semantic_head is not None) == bool(semantic)
    assert not semantic or heads.semantic_head.num_classes == semantic


def test_a_checkpoint_of_htc_names_its_config(tmp_path, capsys):
    heads = json.loads(Path("tests/golden/mmdet_3_3_0_htc_heads.json").read_text())
    shapes = {k: v for k, v in mmdet_shapes(depth=50).items() if not k.startswith("roi_head.")}
    for key in heads:  # recorded with fewer box features
        if "bbox_head" in key:
            heads[key] = [1024 if n == 256 else n for n in heads[key]]
    state = {k: torch.tensor(0.0).expand(s) for k, s in (shapes | heads).items()}
    torch.save({"state_dict": state}, tmp_path / "htc_r50_fpn_1x_coco_20200317-7332cf16.pth")
    main([str(path) for path in (*tmp_path.iterdir(), tmp_path / "ours.pth")])
    printed = capsys.readouterr().out
    assert "HTC R-50, softmax, 37 classes, plain mask predictor" in printed
    assert "config: configs/mmdet/htc_r50_fpn.py" in printed
    assert "num_classes=37" in printed


def test_published_models_need_no_overrides():
    published = MmdetModel(50, True, 80, False, htc=True, semantic_classes=183)
    assert recipe_for(published, False).overrides == []
    assert recipe_for(MmdetModel(101, True, 1203, True), True).overrides == []
    assert recipe_for(MmdetModel(50, False, 1203, True), False).overrides == []
