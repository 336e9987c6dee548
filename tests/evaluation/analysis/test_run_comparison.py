"""Comparison of groups of runs from their files."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

from d2_seesaw.evaluation import evaluate_results_file
from d2_seesaw.evaluation.analysis import read_analysis, write_analysis
from d2_seesaw.evaluation.analysis.compared_runs import are_paired, ordered_by_seed, results_file
from d2_seesaw.evaluation.analysis.judging import read_judged
from d2_seesaw.evaluation.analysis.run_comparison import compare_runs
from d2_seesaw.evaluation.predictions.detections import Detections
from d2_seesaw.evaluation.predictions.files import (
    RESULTS,
    read_results,
    save_columns,
    write_results,
)
from d2_seesaw.report.comparison_tables import notes
from tests.evaluation.compared_data import IMAGES, annotations_and_runs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write annotations, and the runs a_1 to a_3 and b_1 to b_3."""
    return annotations_and_runs(tmp_path_factory.mktemp("runs"))


def compared(data, first, second, **options):
    annotations, folder = data
    groups = {"a": [folder / name for name in first], "b": [folder / name for name in second]}
    return compare_runs(groups, annotations, resamples=40, **options)


def test_scores_are_those_of_the_evaluation(data):
    annotations, folder = data
    found = compared(data, ["a_1", "a_2"], ["b_1"])
    for run, name in enumerate(("a_1", "a_2")):
        metrics = evaluate_results_file(folder / name / "instances_predictions.npz", annotations)[
            "bbox"
        ]
        for metric in ("AP", "APr", "APc", "APf"):
            assert found.tasks[0].scores["a"][metric].runs[run] == pytest.approx(
                metrics[metric], rel=1e-12, nan_ok=True
            )
    assert found.tasks[0].pairs[0].categories[0].first == pytest.approx(
        np.mean([found_ap(annotations, folder / name) for name in ("a_1", "a_2")])
    )


def found_ap(annotations, run):
    folder = run.parent / "again"
    evaluate_results_file(run / "instances_predictions.npz", annotations, output_dir=str(folder))
    return read_analysis(folder / "longtail_bbox.json").categories[0].AP


def test_equal_runs_differ_by_zero_with_an_interval_of_no_width(data, tmp_path):
    for name in ("a_1", "a_2", "a_3"):
        shutil.copytree(data[1] / name, tmp_path / name)
    for runs in (["a_1"], ["a_1", "a_2", "a_3"]):
        pair = compared(data, runs, [tmp_path / run for run in runs]).tasks[0].pairs[0]
        for d in [*pair.metrics[::3], *pair.with_interval]:  # AP and APf
            assert (d.mean, d.low, d.high, d.p_value) == (0, 0, 0, 1)
            assert not d.significant


def test_exchanging_the_groups_exchanges_the_signs(data):
    one, other = ["a_1", "a_2", "a_3"], ["b_1", "b_2", "b_3"]
    for count, paired in ((1, None), (3, True), (3, False)):
        there = compared(data, one[:count], other[:count], paired=paired).tasks[0].pairs[0]
        back = compared(data, other[:count], one[:count], paired=paired).tasks[0].pairs[0]
        for a, b in zip(
            [*there.metrics, *there.categories], [*back.metrics, *back.categories], strict=True
        ):
            assert a.mean == pytest.approx(-b.mean, nan_ok=True)
            if not a.reason:
                assert (a.low, a.high) == pytest.approx((-b.high, -b.low))


def test_seeds_are_covered_with_two_runs_in_each_group_and_paired_by_number(data):
    three = compared(data, ["a_3", "a_1", "a_2"], ["b_1", "b_2", "b_3"])
    assert three.groups["a"] == ["a_1", "a_2", "a_3"]
    pair = three.tasks[0].pairs[0]
    assert pair.seeds
    assert pair.pairs == [("a_1", "b_1"), ("a_2", "b_2"), ("a_3", "b_3")]
    one = compared(data, ["a_1"], ["b_2", "b_3"]).tasks[0].pairs[0]
    assert (one.seeds, one.pairs) == (False, [])
    with pytest.raises(ValueError, match="a has 1 runs and b has 2: they cannot be paired"):
        compared(data, ["a_1"], ["b_2", "b_3"], paired=True)


def test_runs_are_paired_if_the_last_numbers_of_their_names_agree():
    assert are_paired(["softmax_1", "softmax_2"], ["lvis2_seed1", "lvis2_seed2"])
    assert not are_paired(["softmax_1", "softmax_2"], ["seesaw_1", "seesaw_3"])
    assert not are_paired(["softmax_1", "softmax_2"], ["seesaw_1"])
    assert not are_paired(["a", "b"], ["c", "d"])
    assert not are_paired(["a_1", "b_1"], ["c_1", "d_1"])
    names = ["s_10", "s_9", "s_1"]
    assert [names[i] for i in ordered_by_seed(names)] == ["s_1", "s_9", "s_10"]
    assert ordered_by_seed(["seed", "1", "2b"]) == [1, 2, 0]


def test_few_categories_and_few_images_have_no_interval_but_a_reason(data):
    pair = compared(data, ["a_1"], ["b_1"]).tasks[0].pairs[0]
    by_name = {d.name: d for d in (*pair.metrics, *pair.categories)}
    rare = by_name["APr"]
    assert rare.categories == 4
    assert math.isnan(rare.low)
    assert "fewer than 10 categories need 10 images each" in rare.reason
    assert by_name["APf"].reason == by_name["AP"].reason == ""
    for d in pair.categories:
        assert bool(d.reason) == (d.images < 10)
        assert d.objects >= d.images > 0
    assert any(d.reason for d in pair.categories)


def copied(path, images):
    """Write annotations with three frames of each image, one video for each."""
    data = json.loads(path.read_text())
    data["images"] = [
        {**image, "id": image["id"] + n * images, "file_name": f"{image['id']}/{n}.jpg"}
        for n in range(3)
        for image in data["images"]
    ]
    number = len(data["annotations"])
    data["annotations"] = [
        {**a, "id": a["id"] + n * number, "image_id": a["image_id"] + n * images}
        for n in range(3)
        for a in data["annotations"]
    ]
    return data


@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_frames_of_a_video_say_as_much_as_one_of_them(data, tmp_path, seeds):
    annotations, folder = data
    (tmp_path / "val.json").write_text(json.dumps(copied(annotations, IMAGES)))
    groups = {}
    for method in "ab":
        groups[method] = [tmp_path / f"{method}_{seed}" for seed in range(1, seeds + 1)]
        for run in groups[method]:
            run.mkdir()
            one = read_results(folder / run.name / "instances_predictions.npz")
            three = [replace(one, image_ids=one.image_ids + n * IMAGES) for n in range(3)]
            save_columns(str(run / "instances_predictions.npz"), Detections.concatenate(three))
    single = compared(data, *([run.name for run in runs] for runs in groups.values()))
    options = {"annotations": tmp_path / "val.json", "resamples": 40}
    frames = compare_runs(groups, group_by="^[^/]+", **options)
    assert (frames.images, frames.image_groups) == (3 * IMAGES, IMAGES)
    assert single.image_groups is None
    expected, found = (c.tasks[0].pairs[0] for c in (single, frames))
    for a, b in zip(
        [*expected.metrics, *expected.categories], [*found.metrics, *found.categories], strict=True
    ):
        assert (b.low, b.high) == pytest.approx((a.low, a.high), nan_ok=True)
        assert b.reason == a.reason
    # As if the frames were independent.
    wrong = compare_runs(groups, **options).tasks[0].pairs[0]
    if seeds == 1:
        errors = wrong.metrics[0].standard_error, found.metrics[0].standard_error
        assert errors[0] == pytest.approx(errors[1] / 3**0.5, rel=0.3)
    note = notes(frames, frames.tasks[0], found)[-1]
    assert note.startswith("180 images in 60 groups that were drawn as a whole, of val.json")


def test_fewer_than_ten_groups_of_images_are_refused(data):
    ten = compared(data, ["a_1"], ["b_1"], group_by="^[0-9]")  # the first digits of 0 to 59
    assert ten.image_groups == 10
    for pattern, number in (("", 1), ("jpg", 1), ("^[1-5]?", 6)):
        with pytest.raises(ValueError, match=f"puts 60 images into {number} groups, and an int"):
            compared(data, ["a_1"], ["b_1"], group_by=pattern)


def test_the_result_is_json_without_nan_and_depends_on_the_seed_alone(data):
    one, again, other = (
        compared(data, ["a_1"], ["b_1"], seed=seed).to_json() for seed in (1, 1, 2)
    )
    text = json.dumps(one, allow_nan=False)
    assert json.loads(text)["tasks"][0]["pairs"][0]["metrics"][0]["name"] == "AP"
    assert one == again
    errors = [x["tasks"][0]["pairs"][0]["metrics"][0]["standard_error"] for x in (one, other)]
    assert errors[0] != errors[1]
    assert errors[0] == pytest.approx(errors[1], rel=0.6)


def test_inputs_that_cannot_be_compared_are_refused(data, tmp_path):
    annotations, folder = data
    a, b = folder / "a_1", folder / "b_1"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"empty has no lvis_instances_results\.json or .*images"):
        compare_runs({"a": [a], "b": [empty]}, annotations)
    with pytest.raises(ValueError, match=r"two groups with a run each or more, got a: 1$"):
        compare_runs({"a": [a]}, annotations)
    with pytest.raises(ValueError, match="a: 1, b: 0"):
        compare_runs({"a": [a], "b": []}, annotations)
    with pytest.raises(ValueError, match="cannot be used to evaluate masks"):
        compare_runs({"a": [a], "b": [b]}, annotations, tasks=["segm"])
    with pytest.raises(ValueError, match="resamples must be at least 2, got 1"):
        compare_runs({"a": [a], "b": [b]}, annotations, resamples=1)
    with pytest.raises(ValueError, match="the seed must be at least 0, got -1"):
        compare_runs({"a": [a], "b": [b]}, annotations, seed=-1)
    strange = Detections(np.array([7777]), np.array([1]), np.array([0.5]), np.ones((1, 4)))
    (tmp_path / "c").mkdir()
    save_columns(str(tmp_path / "c" / "instances_predictions.npz"), strange)
    with pytest.raises(ValueError, match=r"npz does not fit the annotations: .*7777"):
        compare_runs({"a": [a], "b": [tmp_path / "c"]}, annotations)


def test_a_run_is_counted_once(data, tmp_path):
    run = data[1] / "a_1"
    (tmp_path / "link").symlink_to(run)
    for folder in ("x/inference", "x/inference_tta"):
        shutil.copytree(run, tmp_path / folder)
    plain, tta = tmp_path / "x/inference", tmp_path / "x/inference_tta"
    for first, second, message in (
        (["a_1", tmp_path / "link"], ["b_1"], "link in group 'a' has the detections of .*a_1"),
        (["a_1"], ["b_1", run / "instances_predictions.npz"], "in group 'b' has the detections of"),
        ([tmp_path / "x", plain], ["b_1"], "has the detections of"),
        ([plain, tta], ["b_1"], "inference and .*inference_tta in group 'a' are both named 'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            compared(data, first, second)
    assert compared(data, [plain], [tta]).tasks[0].pairs[0].metrics[0].mean == 0


def test_a_run_without_detections_counts_as_zero_wherever_it_stands(data, tmp_path):
    annotations, folder = data
    for name in ("a_0", "a_9"):
        (tmp_path / name).mkdir()
        write_results(str(tmp_path / name / RESULTS[1]), Detections.from_results([]))
    nothing = tmp_path / "a_0"  # read before a_1
    for first, second in (([nothing, "a_1"], ["b_1", "b_2"]), (["b_1", "b_2"], ["a_1", nothing])):
        (task,) = compared(data, first, second).tasks
        groups = ("a", "b") if nothing in first else ("b", "a")
        runs, others = (task.scores[group]["AP"].runs for group in groups)
        assert sorted(runs)[0] == 0
        assert task.pairs[0].metrics[0].mean * (1 if nothing in first else -1) == pytest.approx(
            np.mean(others) - np.mean(runs)
        )
        assert len(runs) == 2
        assert max(runs) == pytest.approx(
            evaluate_results_file(folder / "a_1" / RESULTS[0], annotations)["bbox"]["AP"]
        )
    both = compared(data, [nothing], [tmp_path / "a_9"]).tasks
    assert [task.pairs[0].metrics[0].mean for task in both] == [0]


def test_only_tasks_of_all_runs_are_compared_in_any_order(tmp_path, caplog):
    annotations, _ = annotations_and_runs(tmp_path, seeds=1)
    data = json.loads(annotations.read_text())
    for a in data["annotations"]:
        x, y, w, h = a["bbox"]
        a["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    annotations.write_text(json.dumps(data))
    results = {"boxes": [], "masks": [], "both": [], "nothing": []}
    for a in data["annotations"]:
        found = {"image_id": a["image_id"], "category_id": a["category_id"], "score": 0.5}
        mask = {"segmentation": a["segmentation"]}
        results["boxes"].append({**found, "bbox": a["bbox"]})
        results["both"].append({**found, **mask, "bbox": a["bbox"], "score": 0.6})
        results["masks"].append({**found, **mask, "score": 0.7})
    for name, of in results.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / RESULTS[1]).write_text(json.dumps(of))

    def tasks(first, second):
        groups = {"x": [tmp_path / first], "y": [tmp_path / second]}
        return [task.task for task in compare_runs(groups, annotations, resamples=2).tasks]

    assert tasks("nothing", "both") == tasks("both", "nothing") == ["segm", "bbox"]
    groups = {"x": [tmp_path / "nothing", tmp_path / "both"], "y": [tmp_path / "masks"]}
    (task,) = compare_runs(groups, annotations, resamples=2).tasks
    assert task.scores["x"]["AP"].runs == pytest.approx([100, 0])  # in the order of their names
    assert tasks("both", "boxes") == tasks("boxes", "both") == ["bbox"]
    assert "Only bbox is compared, because" in caplog.text
    assert tasks("both", "masks") == tasks("masks", "both") == ["segm"]
    with pytest.raises(
        ValueError, match=r"no task in common: .*masks.* has none for bbox, .*boxes"
    ):
        tasks("boxes", "masks")


def test_detections_of_unknown_categories_are_refused_unless_the_evaluation_left_them_out(
    data, tmp_path, caplog
):
    annotations, folder = data
    found = read_results(folder / "a_1" / RESULTS[0])
    run = tmp_path / "a_7"
    run.mkdir()
    shifted = replace(found, category_ids=found.category_ids - 1)
    save_columns(str(run / RESULTS[0]), shifted)
    for first, second in (([run], ["b_1"]), (["b_1"], [run])):
        with pytest.raises(ValueError, match="all category ids are one less than the annotations'"):
            compared(data, first, second)
    evaluated = tmp_path / "evaluated"
    evaluate_results_file(folder / "a_1" / RESULTS[0], annotations, output_dir=str(evaluated))
    extra = found.take(np.r_[:5, : len(found)])
    ids = np.r_[np.full(5, 999), found.category_ids]
    save_columns(str(evaluated / RESULTS[0]), replace(extra, category_ids=ids))
    same = compared(data, [evaluated], ["a_1"]).tasks[0].pairs[0]
    assert same.metrics[0].mean == 0
    assert f"5 of {len(extra)} detections are of categories that the annotations do not list" in (
        caplog.text
    )
    save_columns(str(evaluated / RESULTS[0]), shifted)
    with pytest.raises(ValueError, match="but it says"):
        compared(data, [evaluated], ["b_1"])


def test_a_copy_of_a_run_does_not_pass_for_another_seed(data, tmp_path):
    found = read_results(data[1] / "a_1" / RESULTS[0])
    (tmp_path / "a_4").mkdir()
    write_results(str(tmp_path / "a_4" / RESULTS[1]), found)  # another format
    with pytest.raises(ValueError, match=r"a_4.* has the same detections as .*a_1.*'a': a copy"):
        compared(data, ["a_1", tmp_path / "a_4"], ["b_1", "b_2"])
    assert compared(data, ["a_1"], [tmp_path / "a_4"]).tasks[0].pairs[0].metrics[0].mean == 0


def test_an_analysis_of_other_annotations_or_limits_is_noticed(data, tmp_path):
    annotations, folder = data
    file = folder / "a_1" / "instances_predictions.npz"
    evaluate_results_file(file, annotations, output_dir=str(tmp_path))
    (tmp_path / file.name).write_bytes(file.read_bytes())
    groups = {"a": [tmp_path], "b": [folder / "b_1"]}
    assert compare_runs(groups, annotations, resamples=2).images == 60
    assert len(read_judged(annotations, tmp_path / file.name).table.images) == 60
    analysis = read_analysis(tmp_path / "longtail_bbox.json")
    write_analysis(tmp_path, replace(analysis, ground_truth="x1"))
    with pytest.raises(ValueError, match=r"written for other annotations \(x1\)"):
        compare_runs(groups, annotations, resamples=2)
    with pytest.raises(ValueError, match=r"written for other annotations \(x1\)"):
        read_judged(annotations, tmp_path / file.name)
    write_analysis(tmp_path, replace(analysis, metrics=analysis.metrics | {"AP": 1.0}))
    with pytest.raises(ValueError, match=r"but it says 1\.000: give the limit of detections"):
        compare_runs(groups, annotations, resamples=2)


def test_a_run_is_its_folder_the_folder_above_or_a_file(data, tmp_path):
    folder = tmp_path / "run" / "inference"
    folder.mkdir(parents=True)
    write_results(str(folder / "lvis_instances_results.json"), Detections.from_results([]))
    for path in (folder, folder.parent, folder / "lvis_instances_results.json"):
        assert results_file(path) == folder / "lvis_instances_results.json"
