"""References of the pages to files, configs and published weights."""

import re

import pytest

from d2_seesaw.checkpoint import MmdetModel
from d2_seesaw.cli.convert import is_norm_mask, recipe_for
from tests.support.markdown import PAGES, ROOT, linked_files, links_of, name_of

ZOO = (ROOT / "docs/model_zoo.md").read_text()
CONFIGS = ROOT / "configs"
FOLDERS = [folder.name for folder in CONFIGS.iterdir() if folder.is_dir()]


@pytest.mark.parametrize("page", map(name_of, PAGES))
def test_linked_files_exist(page):
    assert [file for file in linked_files(ROOT / page) if not file.exists()] == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=name_of)
def test_pages_of_the_site_and_texts_that_they_include_link_to_files_of_the_site_only(page):
    included = [ROOT / name for name in re.findall(r'^--8<-- "(.+)"$', page.read_text(), re.M)]
    # An included text is resolved from the page that shows it.
    links = [page.parent / link for text in (page, *included) for link in links_of(text)]
    docs = ROOT / "docs"
    assert [link for link in links if docs not in link.resolve().parents or not link.exists()] == []


def test_the_readme_is_at_most_150_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", map(name_of, PAGES))
def test_named_configs_exist(page):
    names = re.findall(
        rf"`(?:configs/)?((?:{'|'.join(FOLDERS)})/[\w/*]+)(?:\.py)?`", (ROOT / page).read_text()
    )
    missing = [n for n in names if not [*CONFIGS.glob(f"{n}.py")] and not (CONFIGS / n).is_dir()]
    assert missing == []


def test_the_model_zoo_lists_every_config():
    names = [path.relative_to(CONFIGS).with_suffix("") for path in CONFIGS.rglob("*.py")]
    leaves = {name.as_posix() for name in names if name.parts[0] != "common"}
    listed = {
        path.relative_to(CONFIGS).with_suffix("").as_posix()
        for name in re.findall(r"`([\w/*]+)`", ZOO)
        for path in CONFIGS.glob(f"{name}.py")
    }
    assert leaves - listed == set()


def test_published_weights_belong_to_the_configs_beside_them():
    rows = re.findall(r"^\| `(\S+\.pth)` \| `(\S+)`", ZOO, re.M)
    assert len(rows) == 15
    for name, config in rows:
        depth = 101 if "_r101_" in name else 50
        if "htc" in name:
            model = MmdetModel(depth, True, 80, False, htc=True, semantic_classes=183)
        else:
            model = MmdetModel(depth, "cascade" in name, 1203, seesaw=True)
        recipe = recipe_for(model, is_norm_mask(None, "", name))
        assert recipe.config.removeprefix("configs/").removesuffix(".py") == config
