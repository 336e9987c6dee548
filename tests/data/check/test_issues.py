from d2_seesaw.data.check.issues import KINDS, SEVERITIES, Issue, number_by_kind


def test_every_kind_has_a_severity_and_a_description():
    assert all(severity in SEVERITIES and text for severity, text in KINDS.values())


def test_issues_that_do_not_harm_training_are_not_errors():
    harmless = {kind for kind, (severity, _) in KINDS.items() if severity != "error"}
    assert harmless == {
        "missing_name",
        "missing_area",
        "cmyk_image",
        "box_beyond_image",
        "crowd",
        "shared_file",
        "category_without_images",
        "image_without_annotations",
    }


def test_an_issue_names_its_place():
    issue = Issue("crowd", "a crowd", file_name="a.png", image_id=0, annotation_id=7)
    assert str(issue) == "a.png, image 0, annotation 7: a crowd"
    assert issue.severity == "information"
    assert str(Issue("missing_field", "the file has no list")) == "the file has no list"


def test_counts_are_in_the_order_of_the_kinds():
    issues = [Issue("crowd", ""), Issue("missing_image", ""), Issue("crowd", "")]
    assert list(number_by_kind(issues).items()) == [("missing_image", 1), ("crowd", 2)]
