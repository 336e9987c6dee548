import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from d2_seesaw.synthetic import instances, pictures, street
from d2_seesaw.synthetic.cutouts import dataset
from d2_seesaw.synthetic.folder import finish_writing, holds_complete, start_writing, written_files

PARAMETERS = {"num_train_images": 3, "num_val_images": 2, "write_images": True, "seed": 0}
SMALLER = PARAMETERS | {"num_train_images": 1}


LONGTAIL = instances.LongTailSpec(
    num_categories=3, num_train_images=20, num_val_images=10, image_size=(64, 64)
)
STREET = street.SemanticSpec(num_train_images=8, num_val_images=4, image_size=(64, 96))
every_generator = pytest.mark.parametrize(
    ("module", "draw", "generate", "spec"),
    [
        (
            instances,
            "_make_image",
            partial(instances.generate_longtail_dataset, processes=1),
            LONGTAIL,
        ),
        (street, "draw_scene", street.generate_semantic_dataset, STREET),
    ],
    ids=["instances", "street"],
)


def write_all(root, parameters):
    for name in written_files(parameters):
        (root / name).write_text(str(parameters))


def generate(root, parameters, *, overwrite=False):
    start_writing(root, parameters, overwrite=overwrite)
    write_all(root, parameters)
    finish_writing(root)


def files_below(root):
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}


def test_a_folder_is_complete_only_after_the_last_step(tmp_path):
    assert not holds_complete(tmp_path, PARAMETERS)
    start_writing(tmp_path, PARAMETERS, overwrite=False)
    write_all(tmp_path, PARAMETERS)
    assert not holds_complete(tmp_path, PARAMETERS)
    finish_writing(tmp_path)
    assert holds_complete(tmp_path, PARAMETERS)


def test_a_folder_with_a_missing_image_is_not_complete(tmp_path):
    generate(tmp_path, PARAMETERS)
    (tmp_path / "val/000005.jpg").unlink()
    assert not holds_complete(tmp_path, PARAMETERS)


def test_other_parameters_are_rejected_with_their_names(tmp_path):
    generate(tmp_path, PARAMETERS)
    with pytest.raises(ValueError, match="seed is 0, requested 7"):
        start_writing(tmp_path, PARAMETERS | {"seed": 7}, overwrite=False)
    assert holds_complete(tmp_path, PARAMETERS)


def test_overwriting_removes_only_files_of_the_generator(tmp_path):
    generate(tmp_path, PARAMETERS)
    (tmp_path / "train/000777.jpg").write_text("somebody's")
    (tmp_path / "notes.txt").write_text("somebody's")
    generate(tmp_path, SMALLER, overwrite=True)
    expected = {*written_files(SMALLER), "generator.json", "train/000777.jpg", "notes.txt"}
    assert files_below(tmp_path) == expected


def test_foreign_files_with_generated_names_are_never_overwritten(tmp_path):
    (tmp_path / "lvis_val.json").write_text("somebody's")
    with pytest.raises(ValueError, match=r"did not write, such as lvis_val\.json"):
        start_writing(tmp_path, PARAMETERS, overwrite=True)
    assert files_below(tmp_path) == {"lvis_val.json"}


def test_an_interrupted_run_with_other_parameters_is_replaced(tmp_path):
    start_writing(tmp_path, PARAMETERS, overwrite=False)
    write_all(tmp_path, PARAMETERS)
    generate(tmp_path, SMALLER)
    assert files_below(tmp_path) == {*written_files(SMALLER), "generator.json"}


def test_an_interrupted_overwrite_is_never_complete(tmp_path):
    generate(tmp_path, PARAMETERS)
    start_writing(tmp_path, SMALLER, overwrite=True)
    assert not holds_complete(tmp_path, PARAMETERS)
    assert not holds_complete(tmp_path, SMALLER)


def test_the_mark_of_unfinished_writing_takes_precedence(tmp_path):
    generate(tmp_path, PARAMETERS)
    (tmp_path / "generator.partial.json").write_text((tmp_path / "generator.json").read_text())
    assert not holds_complete(tmp_path, PARAMETERS)


def test_writing_only_annotations_leaves_no_empty_folders(tmp_path):
    generate(tmp_path, PARAMETERS | {"write_images": False})
    assert not (tmp_path / "train").exists()


def test_a_generator_can_define_its_files_and_folders(tmp_path):
    def files(parameters):
        return [f"deep/{parameters['seed']}/a.png", "names.json"]

    start_writing(tmp_path, {"seed": 1}, files, overwrite=False)
    for name in files({"seed": 1}):
        (tmp_path / name).write_text("")
    finish_writing(tmp_path)
    assert holds_complete(tmp_path, {"seed": 1}, files)
    assert files_below(tmp_path) == {"deep/1/a.png", "names.json", "generator.json"}
    (tmp_path / "deep/1/a.png").unlink()
    assert not holds_complete(tmp_path, {"seed": 1}, files)


def test_removing_the_images_of_an_earlier_run_leaves_no_empty_folders(tmp_path):
    generate(tmp_path, PARAMETERS)
    generate(tmp_path, PARAMETERS | {"write_images": False}, overwrite=True)
    assert not (tmp_path / "train").exists()


LISTS = {
    "instances": (written_files, PARAMETERS),
    "semantic": (street.written_files, STREET.parameters()),
    "classification": (pictures.written_files, pictures.ClassificationSpec(3, 4, 1).parameters()),
    "cutouts": (dataset.written_files, {**PARAMETERS, "kind": "cutouts", "write_images": None}),
}


@pytest.mark.parametrize(("old", "new"), itertools.permutations(LISTS, 2))
def test_data_of_another_kind_are_named_and_overwritten_on_request(tmp_path, old, new):
    for kind in (old, new):
        files, parameters = LISTS[kind]
        if kind == new:
            with pytest.raises(ValueError, match=f"a dataset of kind {old}, requested {new}"):
                start_writing(tmp_path, parameters, files, overwrite=False)
        start_writing(tmp_path, parameters, files, overwrite=True)
        for name in files(parameters):
            (tmp_path / name).write_text(kind)
        finish_writing(tmp_path)
        assert holds_complete(tmp_path, parameters, files)
    assert files_below(tmp_path) == {*files(parameters), "generator.json"}
    folders = {p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_dir()}
    assert folders == {p for name in files(parameters) for p in Path(name).parents[:-1]}


@pytest.mark.parametrize("name", ["generator.json", "generator.partial.json"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no", "is not valid JSON"),
        ("[1]", "is not a JSON object"),
        ('{"seed": 1}', "lacks parameters of data of kind 'instances', or has others"),
        ('{"generator": "classification", "deep": 1}', "lacks parameters of .*'classification'"),
        ('{"generator": "yeoman"}', "describes data of kind 'yeoman', expected one of instances"),
    ],
)
def test_a_marker_of_another_program_is_named_and_kept(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=rf"{tmp_path}/{name} {message}.*another root"):
            generate(tmp_path, PARAMETERS, overwrite=overwrite)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: text}


# --- both generators ---


@every_generator
def test_a_complete_dataset_is_reused_and_an_interrupted_one_regenerated(
    tmp_path, monkeypatch, module, draw, generate, spec
):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "finish_writing", interrupt)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path, spec)
    assert not generate(tmp_path, spec).reused
    monkeypatch.setattr(module, draw, None)  # fails if something is drawn again
    assert generate(tmp_path, spec).reused


@every_generator
def test_other_parameters_need_overwrite(tmp_path, module, draw, generate, spec):
    generate(tmp_path, spec)
    fewer = replace(spec, num_train_images=2)
    with pytest.raises(
        ValueError, match=rf"num_train_images is {spec.num_train_images}, requested 2"
    ):
        generate(tmp_path, fewer)
    assert not generate(tmp_path, fewer, overwrite=True).reused
    assert len(list(tmp_path.rglob("train/*.jpg"))) == 2
