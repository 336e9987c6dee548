"""`d2-seesaw report compare` on small runs: files, table and errors."""

import json
import re

import pytest

from d2_seesaw.cli import report
from d2_seesaw.cli.report.compare_groups import group_names, split_groups
from d2_seesaw.utils.marks import RECORD
from tests.evaluation.compared_data import annotations_and_runs
from tests.report.test_hostile_text import Elements


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return annotations_and_runs(tmp_path_factory.mktemp("runs"))


def compare(data, output, *arguments):
    annotations, folder = data
    runs = [str(folder / a) if re.fullmatch(r"\w_\d", a) else a for a in arguments]
    common = ("--annotations", str(annotations), "--output", str(output), "--resamples", "20")
    report.main(["compare", *runs, *common])


def test_groups_of_runs_give_tables_figures_and_a_page(data, tmp_path, capsys):
    compare(data, tmp_path, "a_1", "a_2", "--", "b_1", "b_2", "--names", "<a_b>", "50 % & $x$",
            "--format", "md", "tex", "json", "html", "png")  # fmt: skip
    printed = capsys.readouterr().out
    assert re.search(r"Boxes +50 % & \$x\$ minus <a_b> +[+-]\d+\.\d \[.*, .*\]", printed)
    assert "paired by seed: a_1 with b_1, a_2 with b_2" in printed
    names = {path.name for path in tmp_path.iterdir()}
    assert {"comparison.md", "comparison.tex", "comparison.json", "comparison.html"} < names
    assert {"difference_bbox.png", "difference_of_categories_bbox.png"} < names
    markdown = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert r"| \<a\_b\>, 2 runs | " in markdown
    latex = (tmp_path / "comparison.tex").read_text(encoding="utf-8")
    assert r"50 \% \& \$x\$ minus \textless{}a\_b\textgreater{} & +" in latex
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {4}
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["groups"] == {"<a_b>": ["a_1", "a_2"], "50 % & $x$": ["b_1", "b_2"]}
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "a_b" not in {tag for tag, _ in Elements(page).elements}
    assert "&lt;a_b&gt;" in page


def test_no_row_of_a_latex_table_begins_like_an_option_of_the_row_before(data, tmp_path):
    compare(data, tmp_path, "a_1", "--", "b_1", "--", "b_2", "--names", "[1mm]", " *b", "[see]saw",
            "--format", "tex")  # fmt: skip
    lines = (tmp_path / "comparison.tex").read_text(encoding="utf-8").splitlines()
    names = [line.partition("&")[0] for line in lines if line.endswith(r"\\")]
    minus = [f"{{}}{name} minus [1mm] " for name in (" *b", "[see]saw")]
    assert names == [" ", "{}[1mm] ", "{} *b ", "{}[see]saw ", *minus]
    assert "$^*$ & " in lines[-3]  # a mark of significance


def test_files_of_the_users_are_kept_and_own_ones_replaced(data, tmp_path):
    given = ("a_1", "--", "b_1", "--format", "md", "json", "svg")
    for name in ("comparison.md", "difference_bbox.svg"):
        (tmp_path / name).write_text("precious")
        with pytest.raises(SystemExit, match=f"{name} exists, and is not from .*--overwrite"):
            compare(data, tmp_path, *given)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert (tmp_path / name).read_text() == "precious"
        (tmp_path / name).unlink()
    for options in (("--overwrite",), ()):  # own files are replaced
        (tmp_path / "comparison.md").write_text("precious")
        compare(data, tmp_path, *given, *options)
        assert (tmp_path / "comparison.md").read_text() != "precious"


def test_one_seed_is_about_the_trained_models_in_every_output(data, tmp_path, capsys):
    compare(data, tmp_path, "a_1", "--", "b_1", "--", "b_2", "--format", "md", "tex", "html")
    texts = [(tmp_path / f"comparison.{x}").read_text() for x in ("md", "tex", "html")]
    for text in (capsys.readouterr().out, *texts):
        assert "about these two trained models, not about the methods" in " ".join(text.split())
        assert "fewer than 10 categories need 10 images each" in " ".join(text.split())
    written = {f"comparison.{x}" for x in ("md", "tex", "html")}
    assert {p.name for p in tmp_path.iterdir()} == written | {RECORD}


def test_groups_are_named_after_what_their_runs_share(tmp_path):
    groups = [["out/softmax_1", "out/softmax_2"], ["out/seesaw_3"], ["B/seed1", "B/seed2"]]
    assert group_names(None, groups) == ["softmax", "seesaw_3", "B"]
    assert group_names(["x", "y", "z"], groups) == ["x", "y", "z"]
    with pytest.raises(ValueError, match="need different names"):
        group_names(None, [["A/x_1"], ["B/x_1"]])
    with pytest.raises(ValueError, match="one name for each of 2 groups"):
        group_names(["x"], groups[:2])
    with pytest.raises(ValueError, match=r"with -- between them, such as A/\* -- B/\*; got a b"):
        split_groups(["a", "b"])


def test_errors_have_one_line(data, tmp_path):
    for arguments, message in {
        ("a_1", "b_1"): "give the runs of two groups",
        ("a_1", "--", str(tmp_path)): "the interval over images needs the detections",
        ("a_1", "--", "b_1", "--task", "segm"): "cannot be used to evaluate masks",
    }.items():
        with pytest.raises(SystemExit, match=message) as error:
            compare(data, tmp_path / "out", *arguments)
        assert str(error.value).startswith("d2-seesaw report compare: ")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
