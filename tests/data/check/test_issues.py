from d2_seesaw.data.annotations.rules import APPLIES_TO, RULES, SEVERITIES
from d2_seesaw.data.check.issues import Issue, number_by_kind


def test_every_rule_has_a_severity_a_place_a_description_and_a_fix():
    for name, rule in RULES.items():
        assert rule.severity in SEVERITIES, name
        assert rule.applies_to in APPLIES_TO, name
        assert rule.description, name
        assert rule.fix, name


def test_an_issue_names_its_place():
    issue = Issue("crowd", "a crowd", file_name="a.png", image_id=0, annotation_id=7)
    assert str(issue) == "a.png, image 0, annotation 7: a crowd"
    assert issue.severity == "information"
    assert str(Issue("missing_field", "the file has no list")) == "the file has no list"


def test_numbers_are_in_the_order_of_the_rules():
    issues = [Issue("crowd", ""), Issue("missing_image", ""), Issue("crowd", "")]
    assert list(number_by_kind(issues).items()) == [("missing_image", 1), ("crowd", 2)]
