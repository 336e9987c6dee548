import pytest
import torch
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import ROIMasks
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2_seesaw.inference import MultiViewInference, ROIMaskInference, with_roi_masks
from tests.inference.models import (
    box_rcnn,
    mapped,
    mask_rcnn,
    mask_scoring_rcnn,
    picture,
    yacs_rcnn,
)
from tests.support.operators import OperatorLog

BUILDERS = [mask_rcnn, mask_scoring_rcnn, yacs_rcnn, box_rcnn]


@pytest.fixture
def inputs(tmp_path):
    first = mapped(picture(tmp_path / "first.png"))
    second = mapped(picture(tmp_path / "second.png", 120, 90))
    del second["height"], second["width"]  # predictions then have the size of the resized image
    return [first, second]


def through_views(model):
    return MultiViewInference(model, scales=[(64, 110), (80, 130)])


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(nn.Identity(), id="alone"),
        pytest.param(through_views, id="views", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_outputs_equal_the_models_but_with_masks_on_boxes(build, wrap, inputs):
    model = wrap(build()).eval()
    if wrap is through_views:
        del inputs[1]  # views need height and width
    for ours, host in zip(with_roi_masks(model).eval()(inputs), model(inputs), strict=True):
        found, expected = ours["instances"], host["instances"]
        assert len(found) > 2
        assert found.image_size == expected.image_size
        assert found.get_fields().keys() == expected.get_fields().keys()
        for name, value in expected.get_fields().items():
            if name == "pred_masks":
                assert isinstance(found.pred_masks, ROIMasks)
                size = found.image_size
                masks = found.pred_masks.to_bitmasks(found.pred_boxes, *size).tensor
                assert torch.equal(masks, value)
            elif name == "pred_boxes":
                assert torch.equal(found.pred_boxes.tensor, value.tensor)
            else:
                assert torch.equal(found.get(name), value)


@torch.no_grad()
def test_no_detections_give_an_empty_output(inputs):
    model = mask_rcnn()
    model.roi_heads.box_predictor.test_score_thresh = 1.0
    for output in with_roi_masks(model)(inputs):
        assert len(output["instances"]) == len(output["instances"].pred_masks) == 0


@torch.no_grad()
def test_no_image_sized_tensor_is_made_per_detection(inputs):
    model = mask_rcnn()
    inputs = [{**inputs[0], "height": 2000, "width": 3000}]
    largest, found = {}, {}
    for name, each in {"host": model, "ours": with_roi_masks(model)}.items():
        with OperatorLog() as log:
            (found[name],) = each(inputs)
        largest[name] = log.largest
    assert largest["host"] >= len(found["host"]["instances"]) * 2000 * 3000
    assert largest["ours"] < 2000 * 3000


class Other(GeneralizedRCNN):
    def inference(self, *args, **kwargs):
        return super().inference(*args, **kwargs)


class OtherForward(GeneralizedRCNN):
    def forward(self, batched_inputs):
        return super().forward(batched_inputs)


class OtherPostprocessing(GeneralizedRCNN):
    @staticmethod
    def _postprocess(instances, batched_inputs, image_sizes):
        return instances


@pytest.mark.parametrize("kind", [Other, OtherForward, OtherPostprocessing])
def test_models_with_their_own_inference_are_not_wrapped(kind):
    model = mask_rcnn()
    assert with_roi_masks(model) is not model
    model.__class__ = kind
    assert with_roi_masks(model) is model


def test_other_modules_are_not_wrapped():
    model = nn.Linear(2, 2)
    assert with_roi_masks(model) is model


@pytest.fixture
def _one_process(tmp_path):
    """Start a process group, which DDP needs."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_one_process")
def test_ddp_wrappers_are_removed():
    model = mask_rcnn()
    wrapped = with_roi_masks(DistributedDataParallel(model))
    assert isinstance(wrapped, ROIMaskInference)
    assert wrapped.model is model
    other = DistributedDataParallel(nn.Linear(2, 2))
    assert with_roi_masks(other) is other


@pytest.mark.parametrize("training", [True, False])
def test_detectron2s_loop_leaves_the_model_in_its_mode(training, inputs):
    model = mask_rcnn().train(training)
    found = []

    class Collect:
        def reset(self):
            pass

        def process(self, given, outputs):
            found.extend(outputs)

        def evaluate(self):
            pass

    inference_on_dataset(with_roi_masks(model), [inputs[:1]], Collect())
    assert len(found) == 1
    assert model.training is training
    assert all(module.training is training for module in model.modules())


def test_the_wrapper_shares_the_weights_of_the_model():
    model = mask_rcnn()
    wrapped = with_roi_masks(model)
    assert isinstance(wrapped, ROIMaskInference)
    assert [p.data_ptr() for p in wrapped.parameters()] == [
        p.data_ptr() for p in model.parameters()
    ]
