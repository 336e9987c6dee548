"""Pages from the templates in ``templates/``, with the filters that write numbers."""

from __future__ import annotations

import base64
import itertools
import math
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from d2_seesaw.data.frequency import GROUP_NAMES
from d2_seesaw.report.drawing import Chart, render_svg
from d2_seesaw.report.series import GROUP_COLORS


def render(template: str, **context: Any) -> str:
    """Render a template as an HTML page that needs no other file.

    Args:
        template: Name of a file in ``templates/`` without ``.html.j2``.
        **context: Variables of the template. It can also call ``draw(chart)``.
    """
    numbers = itertools.count(1)

    def draw(chart: Chart) -> Markup:
        return Markup(render_svg(chart, f"chart{next(numbers)}-"))

    return _environment().get_template(f"{template}.html.j2").render(draw=draw, **context)


def script_of(template: str) -> str:
    """Return the script of a page: ``templates/<name>.js.j2``, in which nothing is replaced."""
    environment = _environment()
    loader: Any = environment.loader
    return loader.get_source(environment, f"{template}.js.j2")[0]


def score_text(value: float) -> str:
    """Return a score in percent with one decimal, or ``n/a``."""
    return "n/a" if math.isnan(value) else f"{value:.1f}"


def threshold_text(value: float) -> str:
    """Return a score threshold with three decimals, or ``n/a``."""
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def change_text(value: float) -> str:
    """Return a difference of scores with its sign, or ``n/a``."""
    if math.isnan(value):
        return "n/a"
    return f"{value:+.1f}" if round(value, 1) else "0.0"


def count_text(value: int | None) -> str:
    """Return a number with thousands separators, or ``n/a``."""
    return "n/a" if value is None else f"{value:,}"


def tag(text: str, color: str) -> Markup:
    """Return a colored label for a table cell or a caption."""
    return Markup('<span class="tag" style="background:{}">{}</span>').format(color, text)


def group_tag(group: str) -> Markup:
    """Return the name of a frequency group as a label in its color."""
    return tag(GROUP_NAMES[group], GROUP_COLORS[group])


def _jpeg_url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("d2_seesaw.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "change": change_text,
        "group": group_tag,
        "integer": count_text,
        "jpeg_url": _jpeg_url,
        "score": score_text,
        "tag": tag,
        "threshold": threshold_text,
    }
    environment.globals["GROUP_NAMES"] = GROUP_NAMES
    return environment
