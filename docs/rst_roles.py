"""Griffe extension that turns Sphinx roles and equations of docstrings into Markdown and MathML."""

import re
from typing import Any

import griffe
from latex2mathml.converter import convert

_EQUATION = re.compile(r"^ *\.\. math::\n((?:[ \t]+\S.*\n?)+)", re.M)
_MATH = re.compile(r":math:`([^`]+)`")
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod|obj):`~?([^`]+)`")


def to_markdown(docstring: str) -> str:
    """Return a docstring in which each role is code and each equation is MathML."""
    text = _EQUATION.sub(lambda match: _equation(match[1]), docstring)
    text = _MATH.sub(lambda match: convert(match[1]), text)
    return _ROLE.sub(lambda match: f"`{match[1].removeprefix('d2_seesaw.')}`", text)


def _equation(latex: str) -> str:
    return f"\n<div>{convert(' '.join(latex.split()), display='block')}</div>\n\n"


class RSTRoles(griffe.Extension):
    """Apply :func:`to_markdown` to every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object that was loaded."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
