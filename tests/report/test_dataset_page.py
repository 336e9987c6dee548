import re
from html.parser import HTMLParser

from d2_seesaw.data import check_dataset
from d2_seesaw.data.annotations.rules import RULES
from d2_seesaw.data.check.overview import dataset_overview
from d2_seesaw.data.image_files import ImageFolder
from d2_seesaw.report import write_dataset_report
from d2_seesaw.report.dataset_page import dataset_page, group_pictures
from tests.data import own_data
from tests.evaluation.html_text import tables

VOID = {"meta", "img"}


class Balance(HTMLParser):
    """Parser of open tags, which are all closed at the end of a well-formed page."""

    def __init__(self):
        super().__init__()
        self.open, self.count = [], {}

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        """Ignore elements that close themselves, as in SVG."""


def parsed(text):
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    return parser.count


def table_of(text, column):
    """Return the rows below the header of the table that has the column."""
    (found,) = (t for t in tables(text) if column in t[0])
    return found[1:]


def drawn_points(text, title):
    """Return the tooltips of the points of a section's chart, from left to right."""
    part = text[text.index(f"{title}</h2>") :].partition("</svg>")[0]
    found = re.findall(r'<use[^>]* x="(.*?)"[^>]*><title>(.*?)</title>', part)
    return [tooltip for _, tooltip in sorted(found, key=lambda point: float(point[0]))]


def one_object_each(number):
    """Build categories 0 to number - 1, each with one object in an image of its own."""
    data = own_data.content()
    size = {"height": own_data.H, "width": own_data.W}
    data["images"] = [{"id": i, "file_name": f"{i}.png", **size} for i in range(number)]
    data["categories"] = [{"id": i, "name": f"<{i}>"} for i in range(number)]
    data["annotations"] = [own_data.annotation(i + 1, i, i) for i in range(number)]
    return data


def report(folder, data, train_images=None):
    check = check_dataset(own_data.write(folder, data), folder / "images", progress=False)
    columns = own_data.table(data)
    overview = dataset_overview(columns, train_images=train_images)
    write_dataset_report(folder / "r.html", check, overview, columns)
    return (folder / "r.html").read_text(encoding="utf-8")


def test_the_page_shows_every_group_with_pictures_and_needs_no_network(tmp_path):
    text = report(tmp_path, own_data.content(), {7: 500, 40: 50, 1000: 5})
    count = parsed(text)
    assert count["img"] == 3
    assert count["svg"] == 3
    assert not re.search(r'(src|href)="(?!data:|#)|@import|<script|<link|://', text)
    for words in ("hydrant: 5 training images", "No issues found.", "Rare", "Frequent"):
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


def test_issues_are_shown_even_without_readable_annotations(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    text = dataset_page(check_dataset(tmp_path / "a.json", tmp_path))
    parsed(text)
    assert "the file has no list of &#39;images&#39;" in text
    assert "The long tail" not in text


def test_four_categories_of_a_group_have_pictures_from_the_rarest_to_the_most_frequent(tmp_path):
    data = one_object_each(9)
    data["annotations"].pop()  # the only object of 8, which then has no picture
    own_data.write(tmp_path, data)
    columns = own_data.table(data)
    trained = dict(enumerate([3, 1, 6, 2, 5, 4, 60, 50, 0]))
    overview = dataset_overview(columns, train_images=trained)
    pictures = group_pictures(columns, overview, ImageFolder(tmp_path / "images"))
    captions = {group: [caption for _, caption in found] for group, found in pictures.items()}
    assert captions == {
        "r": [f"<{i}>: {n} training images" for i, n in ((1, 1), (0, 3), (5, 4), (2, 6))],
        "c": ["<7>: 50 training images", "<6>: 60 training images"],
        "f": [],
    }


def test_groups_are_counted_by_training_images_and_their_shares_by_objects(tmp_path):
    text = report(tmp_path, own_data.content(), {7: 500, 40: 0, 1000: 5})
    assert table_of(text, "of all objects") == [
        ["rare", "2", "1", "3", "42.9%"],
        ["common", "0", "0", "0", "0.0%"],
        ["frequent", "1", "0", "4", "57.1%"],
    ]


def test_categories_are_listed_and_drawn_with_the_most_frequent_first(tmp_path):
    data = own_data.content()
    text = report(tmp_path, data, {7: 5, 40: 50, 1000: 500})
    rows = table_of(text, "median size")
    assert [row[:6] for row in rows] == [
        ["500", "frequent", "hydrant", "1000", "1", "1"],
        ["50", "common", "drain", "40", "2", "2"],
        ["5", "rare", "kerb", "7", "3", "4"],
    ]
    trained = ["hydrant: 500", "drain: 50", "kerb: 5"]
    assert drawn_points(text, "The long tail") == [f"{t} training images" for t in trained]
    factors = ["kerb: 1.00", "drain: 1.00", "hydrant: 1.00"]  # from the images of this split
    assert drawn_points(text, "Repeat factors") == factors


def test_a_category_without_images_has_no_repeat_factor_in_the_chart(tmp_path):
    data = own_data.content()
    data["annotations"].pop()  # the one hydrant
    text = report(tmp_path, data, {7: 500, 40: 50, 1000: 5})
    assert len(drawn_points(text, "The long tail")) == 3
    assert drawn_points(text, "Repeat factors") == ["kerb: 1.00", "drain: 1.00"]


def test_a_dataset_without_annotations_has_a_page(tmp_path):
    text = report(tmp_path, own_data.content() | {"annotations": []})
    parsed(text)
    assert {row[-1] for row in table_of(text, "of all objects")} == {"0.0%"}


def test_missing_folders_are_listed_with_their_images_and_few_issues_in_full(tmp_path):
    own_data.write(tmp_path)
    check = check_dataset(tmp_path / "train.json", tmp_path / "elsewhere", progress=False)
    text = dataset_page(check)
    (row,) = table_of(text, "missing folder")
    assert row == [str(tmp_path / "elsewhere/part"), "4"]
    assert "the first" not in text


def test_issues_come_with_their_fix_and_thresholds_with_what_they_repeat(tmp_path):
    data = one_object_each(20)
    data["annotations"][0]["iscrowd"] = 1
    text = report(tmp_path, data)
    (crowd,) = [row for row in table_of(text, "fix") if "crowd" in row[2]]
    assert crowd[3] == RULES["crowd"].fix
    rows = table_of(text, "mean repeat factor")
    assert [row[0] for row in rows] == ["0.001", "0.003", "0.01", "0.03", "0.1"]
    assert rows[0][1:] == ["0", "19", "1.00"]
    assert rows[-1][1:] == ["19", "19", f"{(0.1 * 19) ** 0.5:.2f}"]
