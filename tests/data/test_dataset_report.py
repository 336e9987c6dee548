import re
from html.parser import HTMLParser

from d2_seesaw.data import check_dataset
from d2_seesaw.data.annotation_reader import columns_from_json
from d2_seesaw.data.dataset_overview import dataset_overview
from d2_seesaw.data.dataset_report import group_pictures, report_page
from tests.data import own_data

VOID = {"meta", "img", "line", "circle", "rect", "br"}


class Balance(HTMLParser):
    """Open tags; empty at the end of a well-formed page."""

    def __init__(self):
        super().__init__()
        self.open, self.count = [], {}

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag


def parsed(text):
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    return parser.count


def report(folder, data, train_images=None):
    check = check_dataset(own_data.write(folder, data), folder / "images", progress=False)
    columns, _ = columns_from_json(data)
    overview = dataset_overview(columns, train_images=train_images)
    pictures = group_pictures(
        columns, overview, lambda image: str(folder / "images" / image["file_name"])
    )
    return report_page(check, overview, pictures)


def test_the_page_shows_every_group_with_pictures_and_needs_no_network(tmp_path):
    text = report(tmp_path, own_data.content(), {7: 500, 40: 50, 1000: 5})
    count = parsed(text)
    assert count["img"] == 3
    assert count["svg"] == 3
    assert count["circle"] == 6
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import|<script|<link', text)
    for words in ("hydrant: 5 training images", "Nothing was found.", "Rare", "Frequent"):
        assert words in text


def test_issues_are_listed_by_kind_and_names_are_escaped(tmp_path):
    data = own_data.content()
    data["categories"][0]["name"] = "<b>bold</b>"
    data["annotations"] += [own_data.annotation(i, 3, 7) for i in range(100, 130)]
    for annotation in data["annotations"][-30:]:
        annotation["bbox"] = [0, 0, 0, 0]
    text = report(tmp_path, data)
    parsed(text)
    assert "<b>bold" not in text
    assert "&lt;b&gt;bold" in text
    assert "a box without width or height: 30, the first 20" in text
    assert text.count("has the size 0 x 0") == 20


def test_without_annotations_that_can_be_read_there_are_still_the_issues(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    text = report_page(check_dataset(tmp_path / "a.json", tmp_path))
    parsed(text)
    assert "the file has no list of &#x27;images&#x27;" in text
    assert "The long tail" not in text
