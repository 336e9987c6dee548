"""Calibration of scores: the authors' values, closed forms, and what must not change."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from d2_seesaw.layers import Calibration, ScoreCalibration, tau_normalized
from d2_seesaw.layers.calibration import STRUCTURES

GOLDEN = json.loads(Path("tests/golden/calibration_reference.json").read_text())
COUNTS = GOLDEN["counts"]
C = len(COUNTS)
GROUPS = "rrrccf"
TEMPERATURES = {"rare": 0.5, "common": 2.0, "frequent": 1.5}


def calibration(method="norcal", structure="background", **parameters):
    counts = COUNTS if method in ("norcal", "logit-adjustment") else ()
    groups = GROUPS if method == "temperature" else ""
    return Calibration(method, parameters, C, structure, counts, groups)


def calibrate(scores, *arguments, **parameters):
    return ScoreCalibration(calibration(*arguments, **parameters))(scores)


def scores_of(structure, rows=40):
    """Draw scores of each structure: softmax, Seesaw's product, EQL v2's product, or sigmoids."""
    logits = 3 * torch.randn(rows, C + 2)
    if structure == "background":
        return logits[:, : C + 1].softmax(dim=1)
    if structure in ("foreground", "objectness"):
        object_and_background = logits[:, C:].softmax(dim=1)
        of_object = logits[:, :C].softmax(dim=1)
        if structure == "objectness":
            of_object = logits[:, :C].sigmoid()
        classes = of_object * object_and_background[:, :1]
        return torch.cat([classes, object_and_background[:, 1:]], dim=1)
    return logits[:, : C + 1].sigmoid()


@pytest.mark.parametrize("gamma", GOLDEN["norcal"])
def test_norcal_equals_the_authors_code(gamma):
    logits = torch.tensor(GOLDEN["logits"], dtype=torch.float64)
    found = calibrate(logits.softmax(dim=1), gamma=float(gamma))
    expected = torch.tensor(GOLDEN["norcal"][gamma], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)  # offsets are float32


@pytest.mark.parametrize("tau", GOLDEN["pnorm"])
def test_tau_norm_equals_the_authors_code_up_to_the_mean_norm(tau):
    weight = torch.tensor(GOLDEN["weight"], dtype=torch.float64)
    expected = np.array(GOLDEN["pnorm"][tau])
    mean_norm = np.exp(np.log(np.linalg.norm(weight.numpy(), axis=1)).mean())
    found = tau_normalized(torch.cat([weight, torch.ones(2, 3)]), float(tau), C)
    np.testing.assert_allclose(found[:C].numpy(), expected * mean_norm ** float(tau), rtol=1e-6)
    assert torch.equal(found[C:], torch.ones(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_neutral_parameters_change_no_bit(structure):
    scores = scores_of(structure)
    for method, parameters in (
        ("norcal", {"gamma": 0.0}),
        ("logit-adjustment", {"tau": 0}),
        ("temperature", dict.fromkeys(TEMPERATURES, 1)),
    ):
        assert torch.equal(calibrate(scores, method, structure, **parameters), scores)
    weight = torch.randn(C + 2, 4)
    assert torch.equal(tau_normalized(weight, 0.0, C), weight)


def by_equations(scores, method, structure, **parameters):
    """Calibrate row by row, as the equations of the papers say."""
    rows = []
    for row in scores.double().numpy():
        classes, background = row[:-1], row[-1]
        rest = {
            "background": background,
            "foreground": classes.sum(),
            "objectness": 1 - background - classes,
            "independent": 1 - classes,
        }[structure]
        odds = classes / rest
        if method == "norcal":
            odds = odds / np.array(COUNTS, float) ** parameters["gamma"]
        elif method == "logit-adjustment":
            odds = odds * (np.array(COUNTS) / sum(COUNTS)) ** -parameters["tau"]
        else:
            names = {"r": "rare", "c": "common", "f": "frequent"}
            odds = odds ** (1 / np.array([parameters[names[g]] for g in GROUPS]))
        if structure == "background":
            new = np.append(odds, 1) / (1 + odds.sum())
        elif structure == "foreground":
            new = np.append(classes.sum() * odds / odds.sum(), background)
        else:
            objectness = 1 - background if structure == "objectness" else 1
            new = np.append(objectness * odds / (1 + odds), background)
        rows.append(new)
    return np.array(rows)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("norcal", {"gamma": 0.6}),
        ("logit-adjustment", {"tau": 0.7}),
        ("temperature", TEMPERATURES),
    ],
)
def test_scores_are_those_of_the_equations(method, parameters, structure):
    scores = scores_of(structure)
    found = calibrate(scores, method, structure, **parameters)
    expected = by_equations(scores, method, structure, **parameters)
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5, atol=1e-9)
    assert found.min() >= 0
    if structure in ("background", "foreground"):
        torch.testing.assert_close(found.sum(dim=1), torch.ones(len(found)))
    if structure != "background":
        assert torch.equal(found[:, -1], scores[:, -1])


def test_norcal_and_logit_adjustment_are_one_method_where_classes_are_normalized_alone():
    scores = scores_of("foreground")
    norcal = calibrate(scores, "norcal", "foreground", gamma=0.4)
    adjusted = calibrate(scores, "logit-adjustment", "foreground", tau=0.4)
    torch.testing.assert_close(norcal, adjusted)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_temperature_keeps_the_order_of_the_classes_of_its_group(structure):
    scores = scores_of(structure)
    found = calibrate(scores, "temperature", structure, **TEMPERATURES)
    for first, last in ((0, 3), (3, 5)):
        before, after = (s[:, first:last].argsort(dim=1) for s in (scores, found))
        assert torch.equal(before, after)
    assert not torch.equal(scores[:, :-1].argsort(dim=1), found[:, :-1].argsort(dim=1))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_certain_and_impossible_scores_stay_finite(structure):
    rows = torch.eye(C + 1)  # one class, or background, is certain
    zeros = torch.zeros(1, C + 1)
    for scores in (rows, rows.half(), zeros if structure != "background" else rows):
        for method, parameters in (("norcal", {"gamma": 1.0}), ("temperature", TEMPERATURES)):
            found = calibrate(scores, method, structure, **parameters)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, scores.float(), rtol=0, atol=1e-6)
    empty = calibrate(torch.zeros(0, C + 1), structure=structure, gamma=1.0)
    assert empty.shape == (0, C + 1)


def test_the_layer_has_no_state_and_follows_its_module():
    holder = torch.nn.Module()
    holder.layer = ScoreCalibration(calibration(gamma=0.5))
    assert not holder.state_dict()
    assert not list(holder.parameters())
    assert holder.to("meta").layer.offsets.device.type == "meta"


def test_the_layer_compiles_as_one_graph():
    torch._dynamo.reset()
    scores = scores_of("foreground")
    layer = ScoreCalibration(calibration("temperature", "foreground", **TEMPERATURES))
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(scores), layer(scores))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "platt"}, "unknown method 'platt'"),
        ({"parameters": {"tau": 1.0}}, r"needs the parameters \['gamma'\]"),
        ({"parameters": {"gamma": float("nan")}}, "gamma of norcal must be a finite number"),
        ({"parameters": {"gamma": 10**400}}, "gamma of norcal must be a finite number"),
        ({"parameters": None}, "needs the parameters"),
        ({"class_counts": []}, "needs the counts of 6 classes, got 0"),
        ({"class_counts": [1, 2, -3, 4, 5, 6]}, "count of class 2 must be 0 or more, got -3"),
        ({"class_counts": [0] * 6}, "all 6 are 0"),
        ({"class_counts": 6}, "class_counts must be a list"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"structure": "x"}, "structure must be one of"),
        ({"method": "temperature", "parameters": TEMPERATURES}, "need a group, r, c or f"),
        ({"method": "temperature", "parameters": {**TEMPERATURES, "rare": 0.0}}, "above 0"),
        ({"origin": 3}, "origin must be text"),
        ({"more": 3}, "must be a dictionary of its fields"),
    ],
)
def test_wrong_entries_are_refused(changes, message):
    entry = calibration(gamma=0.5).entry()
    assert Calibration.from_entry(json.loads(json.dumps(entry))).entry() == entry
    with pytest.raises(ValueError, match=message):
        Calibration.from_entry({**entry, **changes})
