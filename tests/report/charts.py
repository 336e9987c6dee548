"""Access to the axes, tooltips and SVG of a drawn chart."""

from xml.etree import ElementTree

from d2_seesaw.report import drawing


def drawn(chart, *, is_page=True):
    """Return the canvas on which a chart was drawn."""
    with drawing._drawn(chart, is_page=is_page) as (_, canvas):
        return canvas


def points(chart):
    """Return the data coordinates of points in collections and lines, by tooltip, in order."""
    canvas, found = drawn(chart), {}
    for artist in [*canvas.axes.collections, *canvas.axes.lines]:
        if artist.get_gid() in canvas.tooltips:
            is_line = hasattr(artist, "get_xydata")
            places = (artist.get_xydata() if is_line else artist.get_offsets()).tolist()
            known = [tuple(place) for place in places if place == place]  # without nan
            known = [place for place in known if place[0] == place[0]]
            found |= dict(zip(canvas.tooltips[artist.get_gid()], known, strict=True))
    return found


def legend(chart, **options):
    return [label for _, label in drawn(chart, **options).legend]


def texts(chart, **options):
    """Return the texts in the axes."""
    return [text.get_text() for text in drawn(chart, **options).axes.texts]


def svg(chart):
    return ElementTree.fromstring(drawing.render_svg(chart, "a-"))


def titles(root):
    return [title.text for title in root.iter("title")]
