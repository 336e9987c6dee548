"""Names, paths and captions of strangers: pages have the same elements as with plain text."""

from html.parser import HTMLParser

import pytest

from d2_seesaw.data.check import DatasetCheck
from d2_seesaw.data.check.issues import Issue
from d2_seesaw.data.check.overview import dataset_overview
from d2_seesaw.evaluation.analysis import ConfusionExample
from d2_seesaw.evaluation.analysis.comparison import compare
from d2_seesaw.report.comparison_page import comparison_page
from d2_seesaw.report.dataset_page import dataset_page
from d2_seesaw.report.evaluation_page import evaluation_page
from tests.data import own_data
from tests.evaluation.analysis_data import analysis, calibration, category

HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</style></title></svg><svg/onload=alert(1)>",
    "x'); background: url(https://example.com/x",
    "{{ 7*7 }} {% raw %}",
    "<![CDATA[<script>]]> <!-- -->",
    "a\u2028b\u2029<b>\u202e",
    "&lt;script&gt; &#60;script&#62; javascript:alert(1)",
    "$x^2$ \\input{a}",
]


class Elements(HTMLParser):
    """Parser that records elements with the names of their attributes, and the text in them."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.links, self.text = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, tuple(sorted(name for name, _ in attrs))))
        self.links += [v for n, v in attrs if n in ("href", "src", "style", "clip-path")]
        self.text += [v for n, v in attrs if n in ("alt", "aria-label")]

    def handle_data(self, data):
        self.text.append(data)


class Pictures:
    failures = ()

    def draw(self, example, groups):
        return b"jpeg"


def run(name):
    rows = [
        category(1, "r", 2, 10.0, name=name),
        category(2, "f", 200, 50.0, name=f"{name} b"),
    ]
    found = analysis(rows, [(1, 2, 5), (1, 1, 2)], [calibration("all", (9, 0.2, 0.1), error=1.0)])
    found.examples.append(ConfusionExample(1, 2, 7, [0, 0, 9, 9], [0, 0, 9, 9], 0.5))
    return found


def evaluation(name):
    return evaluation_page([run(name)], title=name, subtitle=name, pictures=Pictures())


def comparison(name):
    return comparison_page([compare(run(name), run(name), names=(name, "b"))], subtitle=name)


def dataset(name):
    data = own_data.content()
    for entry in data["categories"]:
        entry["name"] = f"{name} {entry['id']}"
    issue = Issue("missing_image", name, file_name=name, image_id=name)
    check = DatasetCheck(name, name, {"images": 1}, True, [issue], {name: 3})
    overview = dataset_overview(own_data.table(data), train_images={7: 1, 40: 2, 1000: 500})
    return dataset_page(check, overview, {"r": [(b"jpeg", name)]}, title=name)


@pytest.mark.parametrize("page", [evaluation, comparison, dataset])
def test_text_of_strangers_adds_no_element_attribute_or_link(page):
    hostile = " ".join(HOSTILE)
    plain, elements = Elements(page("x" * len(hostile))), Elements(page(hostile))
    assert elements.elements == plain.elements
    assert not any("example.com" in link or "script" in link for link in elements.links)
    for text in HOSTILE:
        assert any(text in found for found in elements.text), text
