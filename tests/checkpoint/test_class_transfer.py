"""Start from detectors of other classes: what is copied, what starts anew and what is refused."""

import logging
import pickle
from typing import Any

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BasicBlock
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import nn
from torch.nn import functional as F

from d2_seesaw.checkpoint import ClassTransfer, StrictCheckpointer, normalized_layers, save_weights
from d2_seesaw.checkpoint.class_layers import class_layers, loss_prefixes
from d2_seesaw.engine import load_config
from d2_seesaw.layers import (
    linear_classifier,
    mask_predictor,
    normed_linear_classifier,
    normed_mask_predictor,
)
from d2_seesaw.losses import BalancedGroupSoftmaxLoss, SeesawLoss, SoftmaxLoss
from d2_seesaw.modeling.roi_heads import (
    LossDrivenOutputLayers,
    MaskHeadWithPredictor,
    MaskIoUHead,
    ScoredMaskHead,
)

THEIRS = ["cat", "dog", "cow", "pig"]
OWN = ["cow", "bird", "cat"]
PAIRS = [(0, 2), (2, 0)]  # cow and cat
WIDTH = 6


def detector(classes, *, loss=SoftmaxLoss, normed=False, agnostic=False, masks=None, **options):
    """Return the parts of a detector that have classes, and a trunk, with random values."""
    number = len(classes) if isinstance(classes, list) else classes
    boxes = {
        "input_shape": ShapeSpec(channels=WIDTH),
        "box2box_transform": Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
        "num_classes": number,
        "cls_agnostic_bbox_reg": agnostic,
    }
    heads = nn.Module()
    heads.num_classes = number
    if loss is None:
        heads.box_predictor = FastRCNNOutputLayers(**boxes)
    else:
        cls_score = normed_linear_classifier() if normed else linear_classifier()
        cls_loss = loss(number, **options)
        heads.box_predictor = LossDrivenOutputLayers(
            cls_score=cls_score, cls_loss=cls_loss, **boxes
        )
    shape = ShapeSpec(channels=WIDTH, height=4, width=4)
    mask_head = MaskHeadWithPredictor(
        shape,
        predictor=normed_mask_predictor() if normed else mask_predictor(),
        num_classes=masks or number,
        conv_dims=[WIDTH, WIDTH],
    )
    iou_head = MaskIoUHead(shape, num_classes=number, conv_dims=[4], fc_dims=[5])
    heads.mask_head = ScoredMaskHead(mask_head, iou_head=iou_head)
    model = nn.Module()
    model.backbone = nn.Linear(WIDTH, WIDTH)
    model.roi_heads = heads
    for value in model.state_dict().values():
        if value.is_floating_point():
            nn.init.normal_(value)
        else:
            value.fill_(7)
    return model


def file_of(model, names, folder):
    path = folder / "start.pth"
    ids = list(range(1, len(names) + 1)) if names else []
    metadata = {"class_names": names, "category_ids": ids} if names else {}
    save_weights(path, model.state_dict(), metadata | normalized_layers(model))
    return str(path)


def start(model, path, names=OWN, **options):
    """Load a checkpoint of other classes, and return the initial values and the report."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    checkpointer = StrictCheckpointer(model, class_transfer=ClassTransfer(names, **options))
    checkpointer.load(path)
    return before, checkpointer._report


def parts(model) -> tuple[Any, Any, Any]:
    heads = model.roi_heads
    scored = heads.mask_head
    return heads.box_predictor, scored.mask_head.predictor, scored.iou_head.fc_mask_iou


def close(found, expected):
    """Compare outputs of layers of different sizes, which may round differently."""
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def rows(outputs, pairs, side):
    return outputs[:, [pair[side] for pair in pairs]]


@pytest.mark.parametrize(
    ("loss", "normed"), [(SoftmaxLoss, False), (SeesawLoss, True), (SoftmaxLoss, True)]
)
def test_classes_of_the_same_name_keep_their_scores_boxes_and_masks(tmp_path, loss, normed):
    source = detector(THEIRS, loss=loss, normed=normed)
    own = detector(OWN, loss=loss, normed=normed)
    before, _ = start(own, file_of(source, THEIRS, tmp_path))
    x = torch.randn(5, WIDTH)
    (given, given_masks, given_ious), (found, masks, ious) = parts(source), parts(own)
    extras = given.cls_loss.num_logits - len(THEIRS)  # background, or object and background
    pairs = [*PAIRS, *((len(OWN) + k, len(THEIRS) + k) for k in range(extras))]
    close(rows(found.cls_score(x), pairs, 0), rows(given.cls_score(x), pairs, 1))
    deltas = [p.bbox_pred(x).unflatten(1, (-1, 4)) for p in (found, given)]
    close(rows(deltas[0], PAIRS, 0), rows(deltas[1], PAIRS, 1))
    pixels = torch.randn(2, WIDTH, 3, 3)
    close(rows(masks(pixels), PAIRS, 0), rows(given_masks(pixels), PAIRS, 1))
    v = torch.randn(3, 5)
    close(rows(ious(v), PAIRS, 0), rows(given_ious(v), PAIRS, 1))
    for name in ("box_predictor.cls_score", "mask_head.mask_head.predictor"):
        key = f"roi_heads.{name}.weight"
        assert torch.equal(own.state_dict()[key][1], before[key][1])  # the bird
    assert torch.equal(
        found.bbox_pred.bias[4:8], before["roi_heads.box_predictor.bbox_pred.bias"][4:8]
    )
    assert torch.equal(own.backbone.weight, source.backbone.weight)


@pytest.mark.parametrize("more", [{}, {"objectness": True}])
@pytest.mark.parametrize("groups", [False, True])
def test_background_is_background_with_and_without_an_objectness(tmp_path, more, groups):
    source = detector(THEIRS, **more)
    if groups:
        counts = {"class_counts": [1] * len(OWN), "bounds": [10]}
        own = detector(OWN, loss=BalancedGroupSoftmaxLoss, **counts)
    else:
        own = detector(OWN, objectness=not more)
    before, report = start(own, file_of(source, THEIRS, tmp_path))
    found, given = (parts(m)[0].cls_score.weight for m in (own, source))
    assert torch.equal(found[-1], given[-1])
    initial = before["roi_heads.box_predictor.cls_score.weight"]
    if groups or not more:
        # The object row comes from an object row only, and those of groups start anew.
        assert torch.equal(found[-2], given[-2] if more else initial[-2])
    assert torch.equal(found[len(OWN) : -2], initial[len(OWN) : -2])
    text = report.by_name["roi_heads.box_predictor.cls_score.weight"]
    assert (
        text == "2 classes and object and background" if more and groups else "background" in text
    )


def test_plain_weights_give_a_normalized_layer_their_directions(tmp_path):
    source, own = detector(THEIRS, loss=None), detector(OWN, loss=SeesawLoss, normed=True)
    for name in ("box_predictor.cls_score", "mask_head.mask_head.predictor"):
        nn.init.zeros_(own.get_submodule(f"roi_heads.{name}").bias)
    before, report = start(own, file_of(source, THEIRS, tmp_path))
    x = torch.randn(5, WIDTH)
    given, found = parts(source)[0].cls_score, parts(own)[0].cls_score
    cosines = 20 * F.cosine_similarity(x[:, None], given.weight[None, :-1], dim=2)
    torch.testing.assert_close(rows(found(x), PAIRS, 0), rows(cosines, PAIRS, 1))
    # The norms, which the size of a step depends on, are those of a new layer.
    norms = before["roi_heads.box_predictor.cls_score.weight"].norm(dim=1)
    torch.testing.assert_close(found.weight.norm(dim=1), norms)
    assert "directions" in report.by_name["roi_heads.mask_head.mask_head.predictor.weight"]
    assert "its scale" in report.new["roi_heads.box_predictor.cls_score.bias"]


def test_normalized_weights_give_a_plain_layer_their_directions_at_initial_norms(tmp_path):
    source, own = detector(THEIRS, normed=True), detector(OWN, loss=None)
    given, found = (parts(model)[0].cls_score for model in (source, own))
    nn.init.normal_(given.weight, std=50.0)  # a normalized layer ignores its norms
    before, report = start(own, file_of(source, THEIRS, tmp_path))
    key = "roi_heads.box_predictor.cls_score.weight"
    pairs = [*PAIRS, (len(OWN), given.out_features - 1)]
    cosines = F.cosine_similarity(rows(found.weight.T, pairs, 0), rows(given.weight.T, pairs, 1), 0)
    torch.testing.assert_close(cosines, torch.ones(len(pairs)))
    torch.testing.assert_close(found.weight.norm(dim=1), before[key].norm(dim=1))
    assert report.by_name[key].endswith("their directions")


def test_boxes_and_masks_of_all_classes_start_those_of_each_class(tmp_path):
    source = detector(THEIRS, agnostic=True, masks=1)
    own = detector(OWN)
    start(own, file_of(source, THEIRS, tmp_path))
    (given, given_masks, _), (found, masks, _) = parts(source), parts(own)
    assert torch.equal(found.bbox_pred.weight, given.bbox_pred.weight.repeat(3, 1))
    assert torch.equal(masks.bias, given_masks.bias.repeat(3))


def test_boxes_of_each_class_do_not_start_those_of_all_classes(tmp_path):
    source, own = detector(THEIRS), detector(OWN, agnostic=True)
    before, report = start(own, file_of(source, THEIRS, tmp_path))
    key = "roi_heads.box_predictor.bbox_pred.weight"
    assert torch.equal(own.state_dict()[key], before[key])
    assert "one for all classes" in report.new[key]


@pytest.mark.parametrize(("theirs", "own"), [(["cat"], ["cat"]), (THEIRS, ["pig"])])
def test_one_class_is_a_class(tmp_path, theirs, own):
    source, model = detector(theirs), detector(own)
    start(model, file_of(source, theirs, tmp_path), own)
    place = theirs.index(own[0])
    x = torch.randn(5, WIDTH)
    (given, *_), (found, *_) = parts(source), parts(model)
    close(found.cls_score(x)[:, 0], given.cls_score(x)[:, place])
    close(found.bbox_pred(x), given.bbox_pred(x)[:, 4 * place : 4 * place + 4])


def test_without_a_common_class_the_trunk_is_used_with_a_warning(tmp_path, caplog):
    source, own = detector(THEIRS), detector(["a", "b", "c"])
    with caplog.at_level(logging.WARNING, logger="d2_seesaw"):
        before, report = start(own, file_of(source, THEIRS, tmp_path), ["a", "b", "c"])
    assert "No class has a name in common" in caplog.text
    assert torch.equal(own.backbone.weight, source.backbone.weight)
    found = own.state_dict()
    for name in report.new:
        assert torch.equal(found[name], before[name]), name
    key = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(found[key][:3], before[key][:3])


def test_every_tensor_is_accounted_for_and_losses_start_anew(tmp_path):
    source = detector(THEIRS, loss=SeesawLoss, normed=True)
    source.extra = nn.Linear(2, 2)
    own = detector(OWN, loss=SeesawLoss, normed=True)
    own.added = nn.Linear(2, 2)
    before, report = start(own, file_of(source, THEIRS, tmp_path))
    given, found = source.state_dict(), own.state_dict()
    accounts = [set(report.by_name), set(report.new), set(report.loaded)]
    assert set.union(*accounts) == found.keys()
    assert sum(map(len, accounts)) == len(found)
    assert {*report.by_name, *report.loaded, *report.unused} == given.keys()
    assert {n.rpartition(".")[0] for n in report.by_name} == {
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_head.mask_head.predictor",
        "roi_heads.mask_head.iou_head.fc_mask_iou",
    }
    assert set(report.new) == {
        "roi_heads.box_predictor.cls_loss.class_counts",
        "added.weight",
        "added.bias",
    }
    for name in report.loaded:
        assert torch.equal(found[name], given[name]), name
    for name in report.new:
        assert torch.equal(found[name], before[name]), name
    text = "\n".join(report.lines())
    assert "2 of 3 classes found by name in the checkpoint (4 classes): cow, cat" in text
    assert "1 new: bird" in text
    assert "not used: extra: weight, bias (missing in the model)" in text


@pytest.mark.slow
def test_every_tensor_whose_shape_depends_on_the_classes_is_found():
    # TSD with a sibling, a second branch, mask IoU and a context encoder.
    C = 37  # no other size of this model
    heads = load_config("configs/quickstart/challenge.py", parts=("model",)).model.roi_heads
    heads.num_classes = C
    with torch.device("meta"):
        model = instantiate(heads)
    sizes = {C, C + 1, C + 2, 4 * C}
    depending = {name for name, v in model.state_dict().items() if sizes.intersection(v.shape)}
    known = (*(f"{layer.name}." for layer in class_layers(model)), *loss_prefixes(model))
    assert depending
    assert {name for name in depending if not name.startswith(known)} == set()


def test_another_shape_elsewhere_is_refused(tmp_path):
    source, own = detector(THEIRS), detector(OWN)
    source.backbone = nn.Linear(WIDTH, WIDTH + 1)
    path = file_of(source, THEIRS, tmp_path)
    with pytest.raises(ValueError, match=r"backbone.weight: \(7, 6\) in the checkpoint, \(6, 6\)"):
        start(own, path)
    source = detector(THEIRS)
    parts(source)[0].cls_score = nn.Linear(WIDTH + 1, len(THEIRS) + 1)
    with pytest.raises(ValueError, match=r"cls_score.weight: \(5, 7\) in the checkpoint, \(4, 6\)"):
        start(own, file_of(source, THEIRS, tmp_path))


def test_a_checkpoint_without_class_names_needs_them(tmp_path):
    path = file_of(detector(THEIRS), None, tmp_path)
    with pytest.raises(ValueError, match=r"has 4 classes and no class names.*checkpoint_classes"):
        start(detector(OWN), path)
    _, report = start(detector(OWN), path, checkpoint_names=THEIRS)
    assert report.matches.found() == ["cow", "cat"]
    with pytest.raises(ValueError, match=r"names\.txt has 2 class names, but .* 4 classes"):
        start(detector(OWN), path, checkpoint_names=["a", "b"], checkpoint_names_from="names.txt")


@pytest.mark.parametrize("options", [{"require_all": True}, {}])
def test_other_classes_are_refused_in_evaluation_and_by_default(tmp_path, options):
    transfer = {"class_transfer": ClassTransfer(OWN)} if options else {}
    checkpointer = StrictCheckpointer(detector(OWN), **options, **transfer)
    with pytest.raises(ValueError, match="trained with 4 classes, the model has 3"):
        checkpointer.load(file_of(detector(THEIRS), THEIRS, tmp_path))


def test_a_second_phase_is_refused(tmp_path):
    source, own = detector(THEIRS), detector(OWN)
    source.roi_heads.box_predictor.cls_score.class_scales = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="second phase"):
        start(own, file_of(source, THEIRS, tmp_path))
    own.added_keys = frozenset({"new"})
    with pytest.raises(ValueError, match="extends a trained model"):
        start(own, file_of(detector(THEIRS), THEIRS, tmp_path))


def test_a_backbone_alone_is_loaded_as_always(tmp_path):
    own = detector(OWN)
    weights = {"backbone.weight": torch.ones(WIDTH, WIDTH)}
    save_weights(tmp_path / "start.pth", weights)
    _, report = start(own, str(tmp_path / "start.pth"))
    assert report is None
    assert torch.equal(own.backbone.weight, weights["backbone.weight"])


def _shrink(model):
    """Make a Mask R-CNN of Detectron2's or our configs small."""
    model.backbone.bottom_up.stem.out_channels = 8
    model.backbone.bottom_up.stages = [
        L(ResNet.make_stage)(
            block_class=BasicBlock,
            num_blocks=1,
            in_channels=8,
            out_channels=8,
            stride_per_block=[stride],
            norm="FrozenBN",
        )
        for stride in (1, 2, 2, 2)
    ]
    model.backbone.out_channels = model.proposal_generator.head.in_channels = 8
    shape = L(ShapeSpec)(channels=8, height=7, width=7)
    model.roi_heads.box_head.update(input_shape=shape, fc_dims=[16])
    model.roi_heads.box_predictor.input_shape = L(ShapeSpec)(channels=16)
    shape = L(ShapeSpec)(channels=8, height=14, width=14)
    model.roi_heads.mask_head.update(input_shape=shape, conv_dims=[8, 8])
    return instantiate(model)


def test_a_model_of_detectron2s_model_zoo_starts_training_on_three_classes(tmp_path):
    zoo = pytest.importorskip("detectron2.model_zoo")
    source = _shrink(zoo.get_config("common/models/mask_rcnn_fpn.py").model)
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    weights = {name: value.numpy() for name, value in source.state_dict().items()}
    path = tmp_path / "model_final_f10217.pkl"
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "Detectron2 Model Zoo"}))
    names = ["Teddy_Bear", "stamp", "person"]
    ours = load_config("configs/common/models/mask_rcnn_r50_fpn.py", parts=("model",)).model
    ours.roi_heads.num_classes = 3
    own = _shrink(ours)
    _, report = start(own, str(path), names)
    coco = MetadataCatalog.get("coco_2017_train").thing_classes
    pairs = [(0, coco.index("teddy bear")), (2, coco.index("person")), (3, 80)]
    x = torch.randn(5, 16)
    given, found = source.roi_heads.box_predictor, own.roi_heads.box_predictor
    close(rows(found.cls_score(x), pairs, 0), rows(given.cls_score(x), pairs, 1))
    pixels = torch.randn(2, 8, 3, 3)
    given, found = source.roi_heads.mask_head.predictor, own.roi_heads.mask_head.predictor
    close(rows(found(pixels), pairs[:2], 0), rows(given(pixels), pairs[:2], 1))
    assert "COCO (80 classes" in report.origin
    assert report.matches.found() == ["Teddy_Bear ('teddy bear')", "person"]
    assert {name.rpartition(".")[0] for name in [*report.by_name, *report.new]} == {
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_head.predictor",
    }
    assert len(report.by_name) == 6
    assert not report.new
    assert not report.unused


def test_the_config_of_fine_tuning_is_laid_out_as_detectron2s_model():
    zoo = pytest.importorskip("detectron2.model_zoo")
    cfg = load_config("configs/fine_tuning/mask_rcnn_r50_fpn_seesaw_from_coco.py")
    theirs = zoo.get_config("common/models/mask_rcnn_fpn.py").model
    with torch.device("meta"):
        own, given = instantiate(cfg.model), instantiate(theirs)
    classes = (*(f"{layer.name}." for layer in class_layers(own)), *loss_prefixes(own))
    trunks = [
        {name: v.shape for name, v in model.state_dict().items() if not name.startswith(classes)}
        for model in (own, given)
    ]
    assert trunks[0] == trunks[1]
    convolutions = [
        {name: m.stride for name, m in model.backbone.named_modules() if hasattr(m, "stride")}
        for model in (own, given)
    ]
    assert convolutions[0] == convolutions[1]
    keys = ("input_format", "pixel_mean", "pixel_std")
    assert [cfg.model[key] for key in keys] == [theirs[key] for key in keys]
    url = zoo.get_checkpoint_url("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    assert url.endswith(cfg.train.init_checkpoint.removeprefix("detectron2://"))


@pytest.mark.parametrize(
    ("number", "dataset"), [(1203, "lvis_v1_train"), (1230, "lvis_v0.5_train")]
)
def test_the_names_of_lvis_are_known_by_their_number(tmp_path, number, dataset):
    theirs = MetadataCatalog.get(dataset).thing_classes
    path = file_of(detector(number), None, tmp_path)
    own = detector(OWN)
    _, report = start(own, path)
    assert len(theirs) == number
    assert report.matches.found() == ["cow", "bird", "cat"]
    assert [theirs[source] for source in report.matches.sources] == OWN
