import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.utils.events import EventStorage
from torch import nn

from d2_seesaw.checkpoint import StrictCheckpointer, save_weights
from d2_seesaw.checkpoint.pretrained import CONVERTERS, convert_pretrained
from d2_seesaw.layers import normed_linear_classifier
from d2_seesaw.losses import SeesawLoss
from d2_seesaw.modeling.roi_heads import LossDrivenOutputLayers
from tests.modeling.roi_heads import dual_parts


def model(num_classes=4):
    predictor = LossDrivenOutputLayers(
        ShapeSpec(channels=6),
        cls_score=normed_linear_classifier(),
        cls_loss=SeesawLoss(num_classes),
        box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
    )
    return nn.ModuleDict({"box_predictor": predictor})


@pytest.fixture
def saved(tmp_path):
    source = model()
    source["box_predictor"].cls_loss.class_counts.add_(torch.tensor([5, 0, 2**40, 1, 9]))
    StrictCheckpointer(source, str(tmp_path)).save("model")
    return source, str(tmp_path / "model.pth")


def test_weights_and_class_counts_are_restored_exactly(saved):
    source, path = saved
    again = model()
    StrictCheckpointer(again, require_all=True).load(path)
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_the_file_equals_that_of_detectron2(saved, tmp_path):
    source, path = saved
    optimizer = torch.optim.SGD(source.parameters(), lr=0.25)
    (tmp_path / "theirs").mkdir()
    for kind, folder in (
        (DetectionCheckpointer, tmp_path / "theirs"),
        (StrictCheckpointer, tmp_path),
    ):
        kind(source, str(folder), optimizer=optimizer).save("model", iteration=3)
    theirs, ours = (torch.load(f) for f in (tmp_path / "theirs/model.pth", path))
    assert list(theirs) == list(ours) == ["model", "optimizer", "iteration"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert ours["model"]._metadata == theirs["model"]._metadata
    for folder in (tmp_path, tmp_path / "theirs"):
        assert (folder / "last_checkpoint").read_text() == "model.pth"


def test_a_failed_save_keeps_the_earlier_checkpoint(saved, tmp_path, monkeypatch):
    source, path = saved
    with open(path, "rb") as file:
        before = file.read()

    def full_disk(_, file):
        file.write(b"a part")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        StrictCheckpointer(source, str(tmp_path)).save("model")
    assert (tmp_path / "model.pth").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model.pth"]


def test_weights_without_metadata_have_no_entry_for_it(tmp_path):
    save_weights(tmp_path / "new/w.pth", {"a": torch.ones(2)}, {}, author="x")
    assert torch.load(tmp_path / "new/w.pth").keys() == {"model", "author"}


def test_a_converter_is_added_by_one_entry(monkeypatch):
    entry = (
        lambda state: "theirs" in state,
        lambda state, keys: {sorted(keys)[0]: state["theirs"]},
    )
    monkeypatch.setattr("d2_seesaw.checkpoint.pretrained.CONVERTERS", (*CONVERTERS, entry))
    weights = {"theirs": torch.ones(2)}
    assert convert_pretrained(weights, ["b", "a"]) == {"a": weights["theirs"]}
    assert convert_pretrained({"state_dict": weights}, ["c"]) == {"c": weights["theirs"]}
    other = {"state_dict": {"unknown": torch.ones(2)}}
    assert convert_pretrained(other, ["a"]) is other


def test_another_number_of_classes_gives_one_clear_error(saved):
    _, path = saved
    with pytest.raises(ValueError, match="trained with 4 classes, the model has 7") as error:
        StrictCheckpointer(model(7)).load(path)
    message = str(error.value)
    assert (
        "box_predictor.cls_score.weight: (6, 6) in the checkpoint, (9, 6) in the model" in message
    )
    assert "train.allow_partial_checkpoint=True" in message


def test_matching_weights_alone_can_be_loaded_on_request(saved):
    _, path = saved
    other = model(7)
    other["extra"] = nn.Linear(2, 2)
    StrictCheckpointer(other, allow_partial=True, require_all=True).load(path)
    assert other["box_predictor"].cls_loss.class_counts.sum() == 0


def test_missing_weights_are_an_error_only_in_evaluation(saved):
    _, path = saved
    larger = model()
    larger["extra"] = nn.Linear(2, 2)
    StrictCheckpointer(larger).load(path)
    with pytest.raises(ValueError, match=r"extra.weight: missing in the checkpoint"):
        StrictCheckpointer(larger, require_all=True).load(path)


HARMLESS = {
    "second_phase": torch.tensor(1),
    "box_predictor.cls_score.num_batches_tracked": torch.tensor(3),
    "box_predictor.cls_loss.positive_gradients": torch.ones(4),
    "box_predictor.new.cls_score.weight": torch.ones(6, 6),
    "mask_head.predictor.bias": torch.ones(4),
}
CHANGING = {
    "box_predictor.cls_score.class_scales.scales": torch.ones(6),
    "box_predictor.bbox_pred.gain": torch.ones(16),
    "backbone.attention.weight": torch.ones(2),
}


def test_only_weights_that_would_change_the_output_must_not_be_ignored_in_evaluation(
    saved, tmp_path
):
    checkpoint = torch.load(saved[1])
    for name, more in (("harmless", HARMLESS), ("changing", HARMLESS | CHANGING)):
        weights = checkpoint["model"] | more
        save_weights(tmp_path / f"{name}.pth", {f"module.{k}": v for k, v in weights.items()})
    StrictCheckpointer(model(), require_all=True).load(str(tmp_path / "harmless.pth"))
    path = str(tmp_path / "changing.pth")
    StrictCheckpointer(model()).load(path)  # training of another model may start from it
    StrictCheckpointer(model(), require_all=True, allow_partial=True).load(path)
    with pytest.raises(ValueError, match=r"use the config of its training, such as") as error:
        StrictCheckpointer(model(), require_all=True).load(path)
    refused = [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:-1]]
    assert sorted(refused) == sorted(CHANGING)


def test_a_file_without_any_weight_of_the_model_is_refused(tmp_path):
    torch.save({"model": {"foo.weight": torch.ones(2)}}, tmp_path / "other.pth")
    other = nn.ModuleDict({str(k): nn.Linear(2, 2) for k in range(6)})
    with pytest.raises(ValueError, match="it lacks 12 of the 12 weights") as error:
        StrictCheckpointer(other).load(str(tmp_path / "other.pth"))
    *listed, more = str(error.value).splitlines()[1:-1]
    assert (len(listed), more) == (8, "  ... and 4 more")


def test_torchvision_files_are_converted_when_loaded(tmp_path):
    source = torchvision.models.resnet18()
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    backbone = ResNet(BasicStem(3, 64), ResNet.make_default_stages(18))
    StrictCheckpointer(backbone).load(str(tmp_path / "resnet18.pth"))
    assert torch.equal(backbone.state_dict()["res3.0.conv1.weight"], source.layer2[0].conv1.weight)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"plain values \(Unsupported global: GLOBAL io\.open"):
        StrictCheckpointer(model()).load(str(tmp_path / "bad.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def before(tmp_path):
    """Return a model to be extended with a dual head, and its checkpoint."""
    source = dual_parts.trained("tsd")
    StrictCheckpointer(source, str(tmp_path)).save("before")
    return source, str(tmp_path / "before.pth")


@pytest.fixture
def dual_model():
    return dual_parts.model("tsd", dual=True)


def test_a_dual_head_starts_from_the_previous_step(before, dual_model):
    source, path = before
    StrictCheckpointer(dual_model).resume_or_load(path, resume=False)
    state = dual_model.state_dict()
    for name, tensor in source.state_dict().items():
        assert torch.equal(state[name], tensor), name
    for name in dual_model.added_keys:
        if not name.endswith("class_counts"):
            assert torch.equal(state[name], state[name.replace("new.", "")]), name


def test_new_trainings_load_only_weights_and_resumed_ones_everything(tmp_path):
    source = torch.optim.SGD([torch.zeros(1)], lr=0.25)
    StrictCheckpointer(model(), str(tmp_path), optimizer=source).save("model")
    for resume, rate in ((False, 1.0), (True, 0.25)):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        checkpointer = StrictCheckpointer(model(), str(tmp_path), optimizer=optimizer)
        checkpointer.resume_or_load(str(tmp_path / "model.pth"), resume=resume)
        assert optimizer.param_groups[0]["lr"] == rate


def without(path, *keys, then):
    """Write a copy of a checkpoint without some keys and return its path."""
    checkpoint = torch.load(path)
    for key in keys:
        del checkpoint["model"][key]
    torch.save(checkpoint, then)
    return str(then)


OLD = ("backbone.p2.1.running_var", "roi_heads.box_predictor.1.cls_loss.class_counts")


def test_a_dual_head_tolerates_no_other_missing_weights(before, dual_model, tmp_path):
    path = without(before[1], *OLD, then=tmp_path / "partial.pth")
    with pytest.raises(ValueError, match="missing in the checkpoint") as error:
        StrictCheckpointer(dual_model).load(path)
    missing = [line for line in str(error.value).splitlines() if "missing" in line]
    assert missing == [f"  {key}: missing in the checkpoint" for key in OLD]
    StrictCheckpointer(dual_model, allow_partial=True).load(path)


def test_a_dual_head_does_not_start_from_incomplete_new_branches(dual_model, tmp_path):
    StrictCheckpointer(dual_model, str(tmp_path)).save("after")
    key = "roi_heads.box_predictor.2.new.cls_score.weight"
    path = without(tmp_path / "after.pth", key, then=tmp_path / "partial.pth")
    with pytest.raises(ValueError, match=f"{key}: missing in the checkpoint"):
        StrictCheckpointer(dual_model).load(path)


def test_evaluating_or_resuming_a_dual_head_needs_all_weights(before, dual_model):
    with pytest.raises(ValueError, match="missing in the checkpoint") as error:
        StrictCheckpointer(dual_model, require_all=True).load(before[1])
    first, *missing, more, _ = str(error.value).splitlines()
    assert "it is of the first phase, from which DualHeadRCNN is trained" in first
    assert {line.split(":")[0].strip() for line in missing} < dual_model.added_keys
    assert (len(missing), more) == (8, f"  ... and {len(dual_model.added_keys) - 8} more")


@pytest.mark.parametrize("require_all", [False, True])
def test_a_dual_heads_own_checkpoint_is_restored_exactly(dual_model, tmp_path, require_all):
    with EventStorage(0):
        losses = dual_model(dual_parts.images())
        sum(losses.values()).backward()
    torch.optim.SGD([p for p in dual_model.parameters() if p.requires_grad], lr=0.1).step()
    StrictCheckpointer(dual_model, str(tmp_path)).save("after")
    again = dual_parts.model("tsd", dual=True)
    StrictCheckpointer(again, require_all=require_all).load(str(tmp_path / "after.pth"))
    for name, tensor in dual_model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert again.roi_heads.box_predictor[0].new.cls_loss.class_counts.sum() == 48


def test_a_dual_head_without_an_initial_checkpoint_is_rejected(dual_model, tmp_path):
    checkpointer = StrictCheckpointer(dual_model, str(tmp_path))
    with pytest.raises(ValueError, match=r"DualHeadRCNN extends .* train\.init_checkpoint="):
        checkpointer.resume_or_load("", resume=True)
    StrictCheckpointer(model()).load("")  # other models need no checkpoint
