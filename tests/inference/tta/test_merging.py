from types import SimpleNamespace

import pytest
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import nn

from d2_seesaw.inference.tta.merging import MeanOverSharedProposals, MergedBoxes, UnionOfDetections
from d2_seesaw.inference.tta.views import View, ViewRunner, views_of
from tests.inference.models import TRUE_BOXES, TRUE_CLASSES, Oracle, as_numpy, oracle_image

FRAME = (100, 200)
BOX = [20.0, 20.0, 60.0, 60.0]
NEAR = [22.0, 20.0, 62.0, 60.0]
FAR = [120.0, 20.0, 160.0, 60.0]


class FixedDetections:
    """Model that returns given (box, score, class) tuples for each view in turn."""

    def __init__(self, *answers, nms_thresh=0.5, topk=100):
        self.answers = list(answers)
        self.roi_heads = SimpleNamespace(
            box_predictor=SimpleNamespace(
                test_nms_thresh=nms_thresh, test_topk_per_image=topk, test_score_thresh=0.05
            )
        )
        self.device = torch.device("cpu")

    def inference(self, inputs, instances, do_postprocess):
        answer = self.answers.pop(0)
        return [
            Instances(
                FRAME,
                pred_boxes=Boxes(torch.tensor([a[0] for a in answer]).view(-1, 4)),
                scores=torch.tensor([a[1] for a in answer]),
                pred_classes=torch.tensor([a[2] for a in answer], dtype=torch.int64),
            )
        ]


def passes_of(model):
    """Return one view per answer, all of the size of the frame."""
    image = torch.zeros(*FRAME, 3).numpy()
    return ViewRunner(
        model, image, [View(i, FRAME, FRAME, False) for i in range(len(model.answers))]
    )


def merged(*answers, merge=None, **model):
    return (merge or UnionOfDetections())(passes_of(FixedDetections(*answers, **model)))


def kept(found):
    return [
        (box, pytest.approx(score), label)
        for box, score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True
        )
    ]


def test_the_best_of_several_views_of_a_box_wins():
    found = merged([(BOX, 0.5, 1)], [(NEAR, 0.7, 1)], [(BOX, 0.6, 1)])
    assert kept(found) == [(NEAR, 0.7, 1)]
    assert found.source.tolist() == [1]


def test_detections_of_a_single_view_are_kept_and_sorted_by_score():
    found = merged([(BOX, 0.5, 1)], [(FAR, 0.7, 1)])
    assert kept(found) == [(FAR, 0.7, 1), (BOX, 0.5, 1)]


def test_classes_suppress_each_other_only_on_request():
    views = [(BOX, 0.5, 0)], [(BOX, 0.7, 1)]
    assert len(merged(*views)) == 2
    agnostic = merged(*views, merge=UnionOfDetections(class_wise=False))
    assert kept(agnostic) == [(BOX, 0.7, 1)]


@pytest.mark.parametrize("label", [0, 1202])
def test_suppression_is_exact_for_classes_of_any_number(label):
    # Offsets by class in float32 would round boxes of class 1202 to 1/64 px, too coarse here.
    iou = pairwise_iou(Boxes(torch.tensor([BOX])), Boxes(torch.tensor([[28.02, 20, 68.02, 60]])))
    for threshold, number in ((iou.item() - 2e-5, 1), (iou.item() + 2e-5, 2)):
        found = merged(
            [(BOX, 0.5, label)],
            [([28.02, 20.0, 68.02, 60.0], 0.7, label)],
            [(FAR, 0.1, 0)],
            merge=UnionOfDetections(nms_threshold=threshold),
        )
        assert len(found) == number + 1


def test_thresholds_and_limits_default_to_those_of_the_model():
    views = [(BOX, 0.5, 1), (FAR, 0.2, 1)], [(NEAR, 0.7, 1)]
    assert len(merged(*views)) == 2
    assert len(merged(*views, nms_thresh=0.95)) == 3
    assert len(merged(*views, merge=UnionOfDetections(nms_threshold=0.95))) == 3
    assert kept(merged(*views, topk=1)) == [(NEAR, 0.7, 1)]
    assert len(merged(*views, topk=-1)) == 2
    assert len(merged(*views, merge=UnionOfDetections(max_detections=1))) == 1
    assert kept(merged(*views, merge=UnionOfDetections(score_threshold=0.2))) == [(NEAR, 0.7, 1)]


def test_settings_of_a_cascade_come_from_its_last_stage():
    model = FixedDetections([(BOX, 0.5, 1)], [(NEAR, 0.7, 1)])
    stages = nn.ModuleList([nn.Module(), nn.Module()])
    for stage, threshold in zip(stages, (0.5, 0.95), strict=True):
        stage.test_nms_thresh, stage.test_topk_per_image = threshold, 9
    model.roi_heads.box_predictor = stages
    assert len(UnionOfDetections()(passes_of(model))) == 2


def test_missing_settings_are_named():
    model = FixedDetections([(BOX, 0.5, 1)])
    model.roi_heads = SimpleNamespace()
    passes = passes_of(model)
    with pytest.raises(ValueError, match=r"no box_predictor\.test_topk_per.*: give nms_thresh"):
        UnionOfDetections()(passes)


def test_a_single_view_is_not_suppressed_again():
    alone = [(BOX, 0.7, 1), (NEAR, 0.5, 1)]  # rounding inside the model may leave such pairs
    assert kept(merged(alone)) == [(BOX, 0.7, 1), (NEAR, 0.5, 1)]
    assert len(merged(alone, merge=UnionOfDetections(nms_threshold=0.5))) == 1


def test_equal_scores_stay_in_the_order_of_the_views():
    found = merged([(BOX, 0.5, 1), (FAR, 0.5, 2)], [(BOX, 0.5, 3)])
    assert found.classes.tolist() == [1, 2, 3]


def test_views_without_detections_do_not_matter():
    assert kept(merged([], [(BOX, 0.5, 1)], [])) == [(BOX, 0.5, 1)]
    nothing = merged([], [])
    assert nothing.boxes.shape == (0, 4)
    assert nothing.classes.dtype == torch.int64


def test_boxes_are_clipped_to_the_frame_and_kept_unclipped_for_their_view():
    found = merged([([-5.0, 10.0, 30.0, 120.0], 0.5, 1)])
    assert found.boxes.tolist() == [[0, 10, 30, 100]]
    assert found.seen.tolist() == [[-5, 10, 30, 120]]


def test_a_box_is_unchanged_in_the_view_that_it_comes_from():
    views = views_of(FRAME, FRAME, [(33, 66), (71, 142)], flip=True)
    boxes = torch.rand(4, 4) * 50
    merged_boxes = MergedBoxes(
        boxes, torch.rand(4), torch.zeros(4), torch.tensor([0, 1, 2, -1]), torch.rand(4, 4)
    )
    for view in views:
        expected = view.to_view(boxes)
        if view.number < 3:
            expected[view.number] = merged_boxes.seen[view.number]
        assert torch.equal(merged_boxes.in_view(view), expected)


def oracle_passes(model, scales=((90, 120), (720, 960)), flip=True):
    image = as_numpy(oracle_image()["image"])
    return ViewRunner(model, image, views_of(image.shape[:2], (360, 480), scales, flip=flip))


@pytest.mark.parametrize("merge", [UnionOfDetections(), MeanOverSharedProposals()])
def test_correct_outputs_of_every_view_merge_to_the_correct_output(merge):
    found = merge(oracle_passes(Oracle()))
    torch.testing.assert_close(found.boxes, TRUE_BOXES, atol=0.01, rtol=0)
    assert torch.equal(found.classes, TRUE_CLASSES)
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8]))


class ViewDependentOracle(Oracle):
    """Oracle whose boxes and scores depend on the view, but not its proposals."""

    def __init__(self, shifts, scores):
        super().__init__()
        true = self.roi_heads.box_predictions
        rounds = iter(zip(shifts, scores, strict=True))

        def box_predictions(features, proposals):
            shift, score = next(rounds)
            (boxes,), (probabilities,) = true(features, proposals)
            return [boxes + shift], [probabilities * score]

        self.roi_heads.box_predictions = box_predictions


def test_boxes_and_scores_of_shared_proposals_are_averaged():
    model = ViewDependentOracle(shifts=[0.0, 3.0], scores=[1.0, 0.5])
    found = MeanOverSharedProposals()(oracle_passes(model, [(360, 480), (361, 481)], flip=False))
    torch.testing.assert_close(found.boxes, TRUE_BOXES + 1.5, atol=0.02, rtol=0)
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8]) * 0.75)
    assert found.source.tolist() == [-1, -1]


def test_views_share_the_best_proposals_of_all_after_suppression():
    counts = []
    model = Oracle()
    score = model.roi_heads.box_predictions

    def counting(features, proposals):
        counts.append([p.proposal_boxes.tensor for p in proposals])
        return score(features, proposals)

    model.roi_heads.box_predictions = counting
    MeanOverSharedProposals()(oracle_passes(model, [(360, 480), (720, 960)], flip=False))
    assert [len(boxes) for (boxes,) in counts] == [2, 2]  # 4 proposals, pairwise equal
    torch.testing.assert_close(counts[0][0] * 2, counts[1][0])
    better = TRUE_BOXES[1] + torch.tensor([4.0, -4, 4, -4])
    torch.testing.assert_close(counts[0][0][0], better)
    counts.clear()
    only = MeanOverSharedProposals(max_proposals=1, proposal_nms_threshold=0.9)
    only(oracle_passes(model))
    assert [len(boxes) for (boxes,) in counts] == [1] * 4


def test_no_proposals_give_no_detections():
    model = Oracle()
    model.proposal_generator.post_nms_topk = {False: 0}
    found = MeanOverSharedProposals()(oracle_passes(model))
    assert found.boxes.shape == (0, 4)
