"""The command that generates street scenes: its defaults, what it says, and its one-line errors."""

import importlib.util
import sys

import pytest

from d2_seesaw.synthetic.street import SemanticSpec

SPEC = importlib.util.spec_from_file_location("generate", "tools/generate_semantic.py")
generate_semantic = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(generate_semantic)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["generate", *map(str, arguments)])
    generate_semantic.main()


def small(root, *arguments):
    sizes = ("--train-images", 3, "--val-images", 2, "--image-size", 64, 96)
    return ("--root", root, *sizes, *arguments)


def test_the_default_is_the_librarys():
    parser = generate_semantic.argument_parser()
    assert generate_semantic.spec_from(parser.parse_args([])) == SemanticSpec()
    assert parser.parse_args([]).root.name == "semantic_quickstart"


def test_every_option_arrives(tmp_path):
    arguments = map(str, small(tmp_path, "--seed", 5))
    args = generate_semantic.argument_parser().parse_args(list(arguments))
    expected = SemanticSpec(num_train_images=3, num_val_images=2, image_size=(64, 96), seed=5)
    assert generate_semantic.spec_from(args) == expected


def test_says_what_was_made_and_that_nothing_is_made_twice(tmp_path, monkeypatch, capsys):
    run(monkeypatch, *small(tmp_path))
    said = capsys.readouterr().out
    assert "generated in" in said
    assert "training    3 images" in said
    assert "12: sky, road" in said
    assert len(list((tmp_path / "images/train").iterdir())) == 3
    run(monkeypatch, *small(tmp_path))
    assert "found complete, nothing to do" in capsys.readouterr().out


def test_other_parameters_are_one_line_unless_told_to_overwrite(tmp_path, monkeypatch):
    run(monkeypatch, *small(tmp_path))
    with pytest.raises(SystemExit, match=r"error: .* seed is 0, requested 1"):
        run(monkeypatch, *small(tmp_path, "--seed", 1))
    run(monkeypatch, *small(tmp_path, "--seed", 1, "--overwrite"))


def test_a_bad_size_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="error: num_train_images must be at least 1"):
        run(monkeypatch, *small(tmp_path, "--train-images", 0))
