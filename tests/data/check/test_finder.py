import pytest

from d2_seesaw.data.check.finder import FileFinder


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("a0.jpg", "; a0.JPG exists"),
        ("b.png", "; found in sub/deep"),
        ("B.PNG", "; sub/deep/b.png exists"),
        ("sub\\deep\\b.png", "; sub/deep/b.png exists"),
        ("C:\\Users\\me\\b.png", "; found in sub/deep"),
        ("file:///home/me/b.png", "; found in sub/deep"),
        ("with%20space.png", "; with space.png exists"),
        ("sub/a0.JPG", "; found in {root}"),
        ("a0.png", "; a0.JPG exists"),
        ("nowhere.png", ""),
        ("e\u0301.png", "; \u00e9.png exists"),
        ("two.png", "; found in one, and in 1 other folders"),
        ("", ""),
    ],
)
def test_a_missing_file_is_found_under_another_name(tmp_path, name, hint):
    for file in ("a0.JPG", "sub/deep/b.png", "with space.png", "\u00e9.png"):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "two.png").touch()
    assert FileFinder(tmp_path).hint(name) == hint.format(root=tmp_path)
