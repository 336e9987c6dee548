import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances
from PIL import Image
from torch import nn

from d2_seesaw.inference import FilePredictions, Predictor, files, find_sources
from d2_seesaw.inference.sources import VideoFrames
from d2_seesaw.inference.thresholds import ScoreCounts
from d2_seesaw.utils.marks import RECORD

SIZE = (40, 60)
METADATA = {"class_names": ["dark", "bright"], "category_ids": [4, 9]}


class BrightBox(nn.Module):
    """Model that finds the bright pixels of the red channel, as an object or as a class."""

    def __init__(self, is_semantic):
        super().__init__()
        self.is_semantic = is_semantic

    def forward(self, inputs):
        red = inputs[0]["image"][0]
        mask = red > 128
        if self.is_semantic:
            return [{"sem_seg": torch.stack([~mask, mask]).float()}]
        y, x = mask.nonzero().T
        edges = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        box = torch.stack(edges).float()
        found = Instances(
            tuple(red.shape),
            pred_boxes=Boxes(torch.stack([box, box, box])),
            scores=torch.tensor([0.3, 0.9, 0.6]),
            pred_classes=torch.tensor([0, 1, 1]),
            pred_masks=torch.stack([mask] * 3),
        )
        return [{"instances": found}]


def predictor(is_semantic=False, image_format="RGB"):
    return Predictor(
        BrightBox(is_semantic),
        augmentations=T.AugmentationList([]),
        image_format=image_format,
        metadata=METADATA,
        is_semantic=is_semantic,
    )


def red_box(x):
    image = np.zeros((*SIZE, 3), np.uint8)
    image[10:30, x : x + 20, 0] = 255
    return image


@pytest.fixture
def folder(tmp_path):
    """Write two pictures, one in a subfolder, a damaged one, and a video of three frames."""
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    Image.fromarray(red_box(5)).save(root / "a.png")
    Image.fromarray(red_box(30)).save(root / "sub/b.png")
    (root / "bad.jpg").write_text("no picture")
    writer = cv2.VideoWriter(str(root / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, SIZE[::-1])
    for x in (0, 10, 20):
        writer.write(red_box(x)[:, :, ::-1])
    writer.release()
    return root


def run(folder, output, made=None, **options):
    predictions = FilePredictions(made or predictor(), output, **options)
    unreadable = predictions.run(find_sources([folder], output))
    images = json.loads((output / "images.json").read_text())["images"]
    return unreadable, images, json.loads((output / "results.json").read_text())


def test_results_distinguish_pictures_and_frames_and_skip_damaged_files(folder, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        unreadable, images, results = run(folder, tmp_path / "out")
    (message,) = unreadable
    assert "bad.jpg cannot be read" in message
    named = [(image["file_name"], image.get("frame")) for image in images]
    clip = [("clip.avi", frame) for frame in range(3)]
    assert named == [("a.png", None), *clip, ("sub/b.png", None)]
    assert [image["id"] for image in images] == [1, 2, 3, 4, 5]
    best = {r["image_id"]: r["bbox"] for r in results if r["score"] > 0.8}
    assert best[1] == [5, 10, 20, 20]
    assert best[5] == [30, 10, 20, 20]
    assert np.abs(np.array([best[i][0] for i in (2, 3, 4)]) - [0, 10, 20]).max() <= 1
    # Outside a terminal, progress is logged in plain lines.
    assert "1/4 a.png: 2 objects" in caplog.messages
    assert any("skipped" in text and "bad.jpg" in text for text in caplog.messages)


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({}, [0.9, 0.6]),
        ({"score_threshold": 0.0}, [0.9, 0.6, 0.3]),
        ({"score_threshold": 0.0, "max_detections": 1}, [0.9]),
    ],
)
def test_threshold_and_limit_apply_to_the_written_results(folder, tmp_path, options, scores):
    _, _, results = run(folder / "sub", tmp_path / "out", **options)
    assert [r["score"] for r in results] == pytest.approx(scores)
    assert [r["category_id"] for r in results] == [9, 9, 4][: len(scores)]


def test_a_model_in_bgr_sees_and_draws_the_same_colors(folder, tmp_path):
    made = predictor(image_format="BGR")
    made.model.forward = lambda inputs: BrightBox.forward(
        made.model, [{"image": inputs[0]["image"].flip(0)}]
    )
    nothing = {"score_threshold": 1.0}
    _, _, results = run(folder / "sub", tmp_path / "bgr", made, score_threshold=0.8)
    assert results[0]["bbox"] == [30, 10, 20, 20]
    run(folder / "sub", tmp_path / "plain", made, **nothing)
    drawn = np.asarray(Image.open(tmp_path / "plain/b.png").convert("RGB"))
    assert np.array_equal(drawn, red_box(30))


def test_pictures_and_videos_are_drawn_under_their_names(folder, tmp_path):
    out = tmp_path / "out"
    run(folder, out, min_side=80)
    assert not np.array_equal(
        cv2.resize(red_box(30), (120, 80)), cv2.imread(str(out / "sub/b.png"))
    )
    video = cv2.VideoCapture(str(out / "clip.mp4"))
    assert (video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)) == (5, 3)
    assert video.read()[1].shape == (80, 120, 3)
    video.release()


def test_the_json_alone_is_written_on_request(folder, tmp_path):
    for name, is_semantic in (("instances", False), ("semantic", True)):
        run(folder, tmp_path / name, predictor(is_semantic), draw=False)
        written = {p.name for p in (tmp_path / name).rglob("*")}
        assert written == {"results.json", "images.json", RECORD}


def test_semantic_segmentation_writes_label_maps_and_overlays(folder, tmp_path):
    out = tmp_path / "out"
    _, _, results = run(folder, out, predictor(is_semantic=True))
    labels = np.asarray(Image.open(out / "labels/sub/b.png"))
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, red_box(30)[:, :, 0] // 255)
    frames = sorted(p.name for p in (out / "labels/clip").iterdir())
    assert frames == ["000000.png", "000001.png", "000002.png"]
    assert {p.name for p in out.glob("*.*")} == {
        "a.png", "clip.mp4", "results.json", "images.json", RECORD,
    }  # fmt: skip
    assert {r["category_id"] for r in results if r["image_id"] == 1} == {4, 9}


@pytest.mark.parametrize(("number", "depth"), [(256, np.uint8), (257, np.uint16)])
def test_label_maps_have_as_many_bits_as_their_classes_need(folder, tmp_path, number, depth):
    made = predictor(is_semantic=True)
    made.class_names, made.category_ids = [str(i) for i in range(number)], list(range(number))
    found = torch.zeros(number, *SIZE)
    found[-1] = 1
    made.model.forward = lambda _: [{"sem_seg": found}]
    run(folder / "sub", tmp_path / "out", made)
    labels = cv2.imread(str(tmp_path / "out/labels/b.png"), cv2.IMREAD_UNCHANGED)
    assert labels.dtype == depth
    assert np.all(labels == number - 1)


def picture_at(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(red_box(5)).save(path)


@pytest.mark.parametrize(
    ("picture", "other"),
    [
        ("labels/a.png", "a.png"),  # the drawing would replace the label map
        ("Labels/A.PNG", "a.png"),  # the same name if case is ignored
        ("clip/000000.png", "clip.avi"),  # its label map would replace that of a frame
        ("clip/1234567.jpg", "clip.avi"),
        ("labels/clip/000002.png", "clip.avi"),
        ("labels/clip/000002.png", "clip/000002.jpg"),
    ],
)
def test_label_maps_are_never_overwritten(folder, tmp_path, picture, other):
    picture_at(folder / picture)
    if other.endswith(".jpg"):
        (folder / "clip.avi").unlink()
        picture_at(folder / other)
    words = rf"results of .*{picture} and label maps of .*{other} would have the same path"
    with pytest.raises(ValueError, match=words):
        run(folder, tmp_path / "out", predictor(is_semantic=True))
    assert not (tmp_path / "out").exists()
    # Without label maps there is nothing to overwrite.
    run(folder, tmp_path / "instances")
    run(folder, tmp_path / "json", predictor(is_semantic=True), draw=False)


def test_folders_next_to_label_maps_are_allowed(folder, tmp_path):
    out = tmp_path / "out"
    names = (
        "labels/a.jpg",
        "labels/c.png",
        "clip/0.png",
        "clip/12345.png",
        "x/000000.png",
        "a.b.png",
    )
    for name in names:
        picture_at(folder / name)
    run(folder, out, predictor(is_semantic=True))
    label_maps = (
        {str(p.relative_to(out)) for p in out.rglob("*.png")} - set(names) - {"a.png", "sub/b.png"}
    )
    pictures = {str(Path("labels", n).with_suffix(".png")) for n in (*names, "a.png", "sub/b.png")}
    assert label_maps == pictures | {f"labels/clip/00000{i}.png" for i in range(3)}


def test_a_truncated_video_is_reported(folder, tmp_path, caplog, monkeypatch):
    plain = VideoFrames.__init__

    def init(self, *args, **options):
        plain(self, *args, **options)
        self.announced = 9

    monkeypatch.setattr(VideoFrames, "__init__", init)
    run(folder, tmp_path / "out", draw=False)
    assert any("read 3 of 9 announced frames" in text for text in caplog.messages)


def test_what_is_too_large_or_takes_too_much_memory_is_skipped_and_the_rest_goes_on(
    folder, tmp_path
):
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(folder / "huge.png")
    Image.fromarray(red_box(7)).save(folder / "heavy.png")
    made = predictor()
    plain = made.model.forward

    def forward(inputs):
        if inputs[0]["image"][0, 15, 8] and not inputs[0]["image"][0, 15, 6]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return plain(inputs)

    made.model.forward = forward
    skipped, images, _ = run(folder, tmp_path / "out", made, max_pixels=2400)
    assert [line.split("/")[-1] for line in skipped] == [
        skipped[0].split("/")[-1],
        "heavy.png takes more memory than there is",
        "huge.png has 60 x 50 = 3,000 pixels, the limit is 2,400 (max_pixels, --max-pixels "
        "raises it)",
    ]
    assert {image["file_name"] for image in images} == {"a.png", "clip.avi", "sub/b.png"}


def test_counts_of_scores_say_what_other_thresholds_give():
    counts = ScoreCounts()
    assert counts.advice(0.5) == "The model found nothing, at any threshold"
    counts.add(np.array([], np.float32))
    counts.add(np.array([0.31, 0.3, 0.12, 0.004], np.float32))
    assert counts.advice(0.5) == (
        "Detections with a score of at least 0.5: 0 of 4, the highest score is 0.310; "
        "--threshold 0.3 gives 2, 0.2 gives 2, 0.1 gives 3, 0.05 gives 3, 0.02 gives 3, "
        "0.01 gives 3"
    )
    assert "at least 0.3: 2 of 4" in counts.advice(0.3, 2)
    counts.add(np.array([1.0], np.float32))
    assert "at least 1: 1 of 5, the highest score is 1.000" in counts.advice(1.0, 1)


@pytest.mark.parametrize("threshold", [0.0, 0.0001, 0.0006, 0.3001, 0.3004, 0.3005, 0.9, 1.0])
def test_the_number_of_detections_is_that_of_the_results(folder, tmp_path, threshold):
    made = predictor()
    plain = made.model.forward

    def forward(inputs):
        output = plain(inputs)
        output[0]["instances"].scores = torch.tensor([0.0005, 0.9, 0.3004])
        return output

    made.model.forward = forward
    predictions = FilePredictions(made, tmp_path / "out", score_threshold=threshold, draw=False)
    predictions.run(find_sources([folder], tmp_path / "out"))
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert f"at least {threshold:g}: {len(results)} of {3 * 5}, " in predictions.advice()


def fail_for(made, image, error):
    """Make a predictor fail on one of the images."""
    predict = made.predict_all

    def failing(given):
        if np.array_equal(given, image[:, :, ::-1]):
            raise error
        return predict(given)

    made.predict_all = failing
    return made


@pytest.mark.parametrize(
    "error", [ValueError("height and\nwidth must be > 0"), RuntimeError("x"), AssertionError()]
)
def test_a_picture_that_the_model_fails_on_is_skipped_with_a_line(folder, tmp_path, error):
    made = fail_for(predictor(), red_box(5), error)
    unreadable, images, results = run(folder, tmp_path / "out", made)
    assert [line for line in unreadable if "bad.jpg" not in line] == [
        f"{folder}/a.png cannot be predicted on: {type(error).__name__}: "
        f"{' '.join(str(error).split())}".rstrip()
    ]
    assert [image["file_name"] for image in images] == ["clip.avi"] * 3 + ["sub/b.png"]
    assert {result["image_id"] for result in results} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    "error",
    [OSError("no space"), RuntimeError("CUDA error: device-side assert"), ImportError("no x")],
)
def test_errors_that_would_come_for_all_files_end_the_prediction(folder, tmp_path, error):
    made = fail_for(predictor(), red_box(5), error)
    with pytest.raises(type(error), match=str(error)):
        run(folder, tmp_path / "out", made)


def test_a_picture_that_cannot_be_drawn_has_no_results(folder, tmp_path, monkeypatch):
    draw = files.draw_instances

    def failing(image, *rest):
        if np.array_equal(image, red_box(5)):
            raise ValueError("cannot draw")
        return draw(image, *rest)

    monkeypatch.setattr(files, "draw_instances", failing)
    made = FilePredictions(predictor(), tmp_path / "out")
    (line,) = made.run(find_sources([folder / "a.png", folder / "sub"], tmp_path / "out"))
    assert line.endswith("a.png cannot be predicted on: ValueError: cannot draw")
    images = json.loads((tmp_path / "out/images.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["b.png"]
    assert made.num_passed == 2
