import pytest
import torch
import torchvision
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import nn

from d2_seesaw.checkpoint import StrictCheckpointer
from d2_seesaw.layers import normed_linear_classifier
from d2_seesaw.losses import SeesawLoss
from d2_seesaw.roi_heads import LossDrivenOutputLayers


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
    source["box_predictor"].cls_loss.class_counts += torch.tensor([5, 0, 2**40, 1, 9])
    StrictCheckpointer(source, str(tmp_path)).save("model")
    return source, str(tmp_path / "model.pth")


def test_weights_and_class_counts_come_back_exactly(saved):
    source, path = saved
    again = model()
    StrictCheckpointer(again, require_all=True).load(path)
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_checkpoint_of_another_number_of_classes_is_one_clear_error(saved):
    _, path = saved
    with pytest.raises(ValueError, match="trained with 4 classes, the model has 7") as error:
        StrictCheckpointer(model(7)).load(path)
    message = str(error.value)
    assert (
        "box_predictor.cls_score.weight: (6, 6) in the checkpoint, (9, 6) in the model" in message
    )
    assert "train.allow_partial_checkpoint=True" in message


def test_what_fits_can_be_loaded_on_request(saved):
    _, path = saved
    other = model(7)
    other["extra"] = nn.Linear(2, 2)
    StrictCheckpointer(other, allow_partial=True, require_all=True).load(path)
    assert other["box_predictor"].cls_loss.class_counts.sum() == 0


def test_weights_missing_in_the_checkpoint_are_an_error_for_evaluation_only(saved):
    _, path = saved
    larger = model()
    larger["extra"] = nn.Linear(2, 2)
    StrictCheckpointer(larger).load(path)
    with pytest.raises(ValueError, match=r"extra.weight: missing in the checkpoint"):
        StrictCheckpointer(larger, require_all=True).load(path)


def test_torchvision_files_are_converted_on_the_way(tmp_path):
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
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        StrictCheckpointer(model()).load(str(tmp_path / "bad.pth"))
    assert not (tmp_path / "ran").exists()
