"""Tests of the detection of the installed Detectron2, its origin and its completeness."""

import json
import sys

import pytest

from d2_seesaw import detectron2_origin
from d2_seesaw.detectron2_origin import COMMIT, COPY_LABEL, COPY_NAME, find_installed, unfinished


def put_package(site_packages, name, *, record=True, source=None):
    """Write an installed distribution of the package ``detectron2`` as pip does."""
    (site_packages / "detectron2").mkdir(parents=True, exist_ok=True)
    (site_packages / "detectron2" / "__init__.py").touch()
    info = site_packages / f"{name.replace('-', '_')}-{COPY_LABEL}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {COPY_LABEL}\n")
    if source:
        (info / "direct_url.json").write_text(json.dumps(source))
    if record:
        (info / "RECORD").touch()
    return info


@pytest.fixture
def site_packages(tmp_path, monkeypatch):
    """Return an empty site-packages folder, the only one that is searched."""
    folder = (tmp_path / "site").resolve()
    folder.mkdir()
    monkeypatch.setattr(detectron2_origin, "SITE_PACKAGES", {folder})
    monkeypatch.setattr(sys, "path", [str(folder)])
    monkeypatch.setitem(sys.modules, "detectron2", None)  # as if it had not been imported
    monkeypatch.delitem(sys.modules, "detectron2")
    return folder


FROM_GIT = {"url": "https://x/detectron2.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}


def test_the_origin_of_the_installed_detectron2_is_found(site_packages):
    assert find_installed() is None
    put_package(site_packages, "detectron2", source=FROM_GIT)
    installed = find_installed()
    assert installed.comes_from("git")
    assert not installed.comes_from("index")
    assert installed.comes_from("auto")
    assert str(installed).endswith(f"from its repository at {COMMIT[:7]}, Python only")


def test_a_checkout_is_recognized_by_its_path(site_packages, tmp_path):
    source = {"url": tmp_path.as_uri(), "dir_info": {}}
    put_package(site_packages, "detectron2", source=source)
    (site_packages / "detectron2" / "_C.cpython.so").touch()
    assert find_installed().comes_from(str(tmp_path))
    assert not find_installed().comes_from(str(site_packages))
    assert str(find_installed()).endswith(f"from {tmp_path.as_uri()}, compiled")


def test_an_interrupted_installation_is_not_counted(site_packages):
    info = put_package(site_packages, COPY_NAME, record=False)
    assert find_installed() is None
    assert list(unfinished(site_packages)) == [info]
    assert not list(unfinished(site_packages, only="detectron2"))
    (info / "METADATA").unlink()
    info.rmdir()  # interrupted even earlier: files without metadata
    assert find_installed() is None


def test_a_checkout_on_the_python_path_is_found(site_packages, tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    (checkout / "detectron2").mkdir(parents=True)
    (checkout / "detectron2" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(checkout)])
    assert str(checkout) in str(find_installed())
