"""A rectangle with two axes, in which charts draw."""

from dataclasses import dataclass

from d2_seesaw.report.svg.axes import Axis
from d2_seesaw.report.svg.marks import GRAY, line, text, upright

LEFT, RIGHT, BOTTOM = 64.0, 14.0, 46.0


@dataclass(frozen=True)
class Frame:
    """Where the axes lie in a chart.

    Attributes:
        x: The horizontal axis.
        y: The vertical axis.
        left: Of the rectangle, in units of the chart.
        right: The same.
        top: The same.
        bottom: The same.
    """

    x: Axis
    y: Axis
    left: float
    right: float
    top: float
    bottom: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The place of a point."""
        return (
            self.left + self.x.share(x) * (self.right - self.left),
            self.bottom - self.y.share(y) * (self.bottom - self.top),
        )

    def grid(self, x_label: str, y_label: str) -> str:
        """Lines at the ticks, their values, and the names of the axes."""
        parts = []
        for value, written in self.y.ticks:
            y = self.bottom - self.y.share(value) * (self.bottom - self.top)
            color = {"color": GRAY} if value == 0 else {}
            parts.append(line(self.left, y, self.right, y, **color))
            parts.append(text(self.left - 8, y + 4, written, "end"))
        places = [self.left + self.x.share(v) * (self.right - self.left) for v, _ in self.x.ticks]
        for x, (_, written) in zip(places, self.x.ticks, strict=True):
            parts.append(line(x, self.top, x, self.bottom))
            parts.append(text(x, self.bottom + 18, written, "middle"))
        middle = (self.top + self.bottom) / 2
        parts.append(text((self.left + self.right) / 2, self.bottom + 40, x_label, "middle"))
        parts.append(upright(14, middle, y_label))
        return "".join(parts)

    def nothing(self, what: str) -> str:
        """Words in place of what would be drawn."""
        return text((self.left + self.right) / 2, (self.top + self.bottom) / 2, what, "middle")
