"""Line charts and bars as SVG: a report must open anywhere, years later, without a script or a network.

Pure text building. Colours are CSS variables (`--dim`, `--line`, `--c0` …), so one chart serves light and dark. Charts
are elements of a page that has `STYLE` among its own, or files of their own (`standalone`). Every line has a legend
entry and a `<title>`, so a reader can hover over it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 28, 34, 40
_TICKS = 6
#: Variables `--c0` and so on that `STYLE` has.
COLOURS = 7

#: What charts need of a style sheet: colours for light and for dark, and the looks of lines and words.
STYLE = """
:root { --ink:#1c2430; --dim:#5c6b7f; --paper:#fff; --panel:#f4f6f9; --line:#dde3ea; --good:#12805c; --bad:#c0322b;
  --c0:#2f6fde; --c1:#d9822b; --c2:#12805c; --c3:#a23bb5; --c4:#c0322b; --c5:#56708f;
  --c6:#8a6d1f }
@media (prefers-color-scheme: dark) { :root { --ink:#e4e9f0; --dim:#97a5b8; --paper:#12161c; --panel:#1b212a;
  --line:#2c3642; --good:#3ecf9b; --bad:#ff7a70; --c0:#6aa5ff; --c1:#ffb05c; --c2:#3ecf9b; --c3:#d58aff; --c4:#ff7a70;
  --c5:#97a5b8; --c6:#d8bf6a } }
.label { font:11px system-ui, sans-serif; fill:var(--dim) } .grid { stroke:var(--line); stroke-width:1 }
.line { fill:none; stroke-width:1.8; stroke-linejoin:round }
"""


@dataclass(frozen=True, slots=True)
class Line:
    """A named line: points as (x, y), ascending in x. `colour`: of the page's, else the next one in turn."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows. `ticks`, if given, are (value, label) and replace the computed ones."""

    label: str
    log: bool = False
    ticks: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to pixels."""

    low: float
    high: float
    begin: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        at = math.log10(max(value, self.low)) if self.log else value
        return self.begin + (at - low) / (high - low) * (self.end - self.begin)


def line_chart(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """An SVG element. Without any point it says that there is nothing to show."""
    shown = [line for line in lines if line.points]
    if not shown:
        text = f'<text class="label" x="{_LEFT}" y="36">{escape(title)}: no data</text>'
        return f'<svg viewBox="0 0 {_WIDTH} 60" role="img">{text}</svg>'
    across = _scale(x, [px for line in shown for px, _ in line.points], _LEFT, _WIDTH - _RIGHT)
    up = _scale(y, [py for line in shown for _, py in line.points], _HEIGHT - _BOTTOM, _TOP, from_zero=True)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts += _grid(x, across, y, up)
    coloured = [
        (line, f"var(--c{number % COLOURS if line.colour is None else line.colour})")
        for number, line in enumerate(shown)
    ]
    parts += [_path(line, colour, across, up) for line, colour in coloured]
    parts += _legend([(line.name, colour) for line, colour in coloured])
    parts.append("</svg>")
    return "".join(parts)


def standalone(chart: str) -> str:
    """A line chart as a file of its own, for a page that shows pictures."""
    size = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
    ground = '<rect width="100%" height="100%" fill="var(--panel)"/>'
    opening, _, rest = chart.replace("<svg ", size, 1).partition(">")
    return f"{opening}><style>{STYLE}</style>{ground}{rest}\n"


def bar_chart(title: str, bars: Sequence[tuple[str, float, str]]) -> str:
    """Horizontal bars: (name, length, label)."""
    height = 26 * len(bars) + 12
    longest = max((length for _, length, _ in bars), default=0.0) or 1.0
    left, room = 170, _WIDTH - 170 - 170
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">']
    for number, (name, length, label) in enumerate(bars):
        y = 8 + 26 * number
        width = max(1.0, room * length / longest)
        parts.append(
            f'<text class="label" x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{left}" y="{y}" width="{width:.1f}" height="18" rx="2" fill="var(--c0)"/>'
            f'<text class="label" x="{left + width + 6:.1f}" y="{y + 14}">{escape(label)}</text>'
        )
    parts.append("</svg>")
    return "".join(parts)


def _scale(axis: Axis, values: Sequence[float], begin: float, end: float, *, from_zero: bool = False) -> _Scale:
    given = [value for value, _ in axis.ticks]
    low, high = min([*values, *given]), max([*values, *given])
    if axis.log:
        low = 10 ** math.floor(math.log10(max(low, 1e-6)))
        high = max(high * 1.1, low * 10)
    elif from_zero:
        low, high = 0.0, _nice_ticks(0.0, high or 1.0)[-1]
    elif high <= low:
        high = low + 1
    return _Scale(low, high, begin, end, axis.log)


def _grid(x: Axis, across: _Scale, y: Axis, up: _Scale) -> list[str]:
    parts = []
    for value, label in y.ticks or _ticks(up):
        at = up(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text class="label" x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{escape(label)}</text>'
        )
    for value, label in x.ticks or _ticks(across):
        at = across(value)
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
            f'<text class="label" x="{at:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{escape(label)}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text class="label" x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x.label)}</text>'
        f'<text class="label" x="{_LEFT}" y="12" text-anchor="start">{escape(y.label)}</text>'
    )
    return parts


def _path(line: Line, colour: str, across: _Scale, up: _Scale) -> str:
    points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line.points)
    title = f"<title>{escape(line.name)}</title>"
    if len(line.points) == 1:
        at_x, at_y = points.split(",")
        return f'<circle cx="{at_x}" cy="{at_y}" r="3" fill="{colour}">{title}</circle>'
    return f'<polyline class="line" points="{points}" stroke="{colour}">{title}</polyline>'


def _legend(entries: Sequence[tuple[str, str]]) -> list[str]:
    parts, at = [], float(_LEFT + 110)
    for name, colour in entries:
        parts.append(
            f'<rect x="{at:.0f}" y="4" width="14" height="4" fill="{colour}"/>'
            f'<text class="label" x="{at + 18:.0f}" y="12">{escape(name)}</text>'
        )
        at += 34 + 6.6 * len(name)
    return parts


def _ticks(scale: _Scale) -> list[tuple[float, str]]:
    if not scale.log:
        return [(value, _short(value)) for value in _nice_ticks(scale.low, scale.high) if value <= scale.high * 1.001]
    first, last = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return [(value, _short(value)) for value in values if scale.low <= value <= scale.high]


def _nice_ticks(low: float, high: float) -> list[float]:
    """About `_TICKS` round values that cover the interval; the last is not below its end."""
    raw = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= raw)
    first = math.floor(low / step)
    return [number * step for number in range(first, math.ceil(high / step - 1e-9) + 1)]


def _short(value: float) -> str:
    if value >= 1_000_000:
        return f"{value / 1_000_000:g} M"
    if value >= 10_000:
        return f"{value / 1000:g} k"
    return f"{value:g}"
