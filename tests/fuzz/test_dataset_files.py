"""Damaged annotations and results: refused with a line everywhere, or read everywhere."""

import json
import math

from hypothesis import given

from d2_seesaw.data import InstanceDatasetMapper, check_dataset, load_longtail_json
from d2_seesaw.data.annotations.rules import ANNOTATIONS, ERROR, RULES
from d2_seesaw.evaluation.saved_results import evaluate_results_file
from tests.data import own_data
from tests.fuzz.harness import ENCODED, PLACE, as_json, mutated, mutations, outcome

NOT_FOR_EVALUATION = "nothing_to_train_on"
DATASET = own_data.content()
RESULTS = [
    {"image_id": a["image_id"], "category_id": a["category_id"], "score": 0.5}
    | {"bbox": a["bbox"], "segmentation": own_data.compressed(own_data.mask_of(4, 4, 8))}
    for a in DATASET["annotations"]
]


@given(changes=mutations(DATASET), encoding=ENCODED, place=PLACE)
def test_what_loading_refuses_is_refused_by_the_check_and_by_evaluation(
    folder, changes, encoding, place
):
    file = folder / "changed.json"
    file.write_bytes(as_json(mutated(DATASET, changes), encoding, place))
    check, refused_check = outcome(check_dataset, file, folder / "images", read_images=False)
    records, refused_load = outcome(load_longtail_json, file, folder / "images")
    metrics, refused_evaluation = outcome(
        evaluate_results_file, folder / "none.json", file, tasks=("bbox",)
    )
    errors = {i.kind for i in check.issues if i.severity == ERROR} if check else {"unreadable"}
    errors = {e for e in errors if e == "unreadable" or RULES[e].applies_to == ANNOTATIONS}
    assert bool(errors) == (refused_load is not None), (errors, refused_load)
    refused = errors - {NOT_FOR_EVALUATION}
    assert bool(refused) == (refused_evaluation is not None), (errors, refused_evaluation)
    if metrics is not None:
        assert_in_range(metrics)
    if records is not None:
        read, refused_check = outcome(check_dataset, file, folder / "images", progress=False)
        assert refused_check is None
        if not any(issue.severity == ERROR for issue in read.issues):
            mapper = InstanceDatasetMapper(
                is_train=True, augmentations=[], image_format="BGR", use_instance_mask=True
            )
            for record in records:
                _, refused = outcome(mapper, record)
                assert refused is None


@given(changes=mutations(RESULTS), encoding=ENCODED, place=PLACE)
def test_damaged_results_are_refused_or_scored_within_the_range(folder, changes, encoding, place):
    file = folder / "results.json"
    file.write_bytes(as_json(mutated(RESULTS, changes), encoding, place))
    for task in ("bbox", "segm"):
        metrics, _ = outcome(evaluate_results_file, file, folder / "train.json", tasks=(task,))
        if metrics is not None:
            assert_in_range(metrics)
            content = json.loads(file.read_bytes().decode("utf-8-sig"))
            scores = [entry["score"] for entry in content]
            assert all(type(s) in (int, float) and 0 <= s <= 1 for s in scores)


def assert_in_range(metrics):
    """Check that each metric is a percentage or NaN. Numbers of categories are not limited."""
    for task, values in metrics.items():
        for name, value in values.items():
            counted = name.startswith(("categories-", "evaluated-"))
            assert math.isnan(value) or 0 <= value <= (math.inf if counted else 100), (task, name)
