"""What is in a chart: its elements, read as XML."""

from xml.etree import ElementTree


def elements(svg, tag):
    return list(ElementTree.fromstring(svg).iter(tag))


def circles(svg):
    """Place and title of every circle that has one."""
    return {
        c.find("title").text: (float(c.get("cx")), float(c.get("cy")))
        for c in elements(svg, "circle")
        if c.find("title") is not None
    }


def texts(svg):
    return [t.text for t in elements(svg, "text")]


def place_of(svg, written):
    """Where a text that is written once stands."""
    (found,) = [t for t in elements(svg, "text") if t.text == written]
    return float(found.get("x")), float(found.get("y"))


def polylines(svg):
    """The points of every line with its attributes."""
    return [
        ([tuple(map(float, p.split(","))) for p in e.get("points").split()], e.attrib)
        for e in elements(svg, "polyline")
    ]
