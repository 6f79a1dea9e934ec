"""The figure of throughput against the number of clients: an SVG, legible in light and dark."""

from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 132, 36, 48

STYLE = """
  svg { font: 13px system-ui, sans-serif; color: #17241f; background: #fffdf7 }
  .grid { stroke: #d5d1c1 } .axis { fill: #53605a } .title { font-weight: 600 }
  text { fill: currentColor } path { fill: none; stroke-width: 2.5 }
  .site { stroke: #14604a } .limit { stroke: #9a5a00; stroke-dasharray: 6 4 }
  circle.site { fill: #14604a } circle.limit { fill: #9a5a00 }
  @media (prefers-color-scheme: dark) {
    svg { color: #e8eee9; background: #111714 }
    .grid { stroke: #35423b } .axis { fill: #a3b1a9 }
    .site { stroke: #7fd3b0 } .limit { stroke: #f0b35a }
    circle.site { fill: #7fd3b0 } circle.limit { fill: #f0b35a }
  }
"""


def draw(points: Sequence[dict[str, Any]]) -> str:
    """`points` have `clients`, `ok_per_s` and `limit_per_s`; their clients double each time."""
    most = _round_up(max(max(p["ok_per_s"], p["limit_per_s"]) for p in points))

    def x(n: int) -> float:
        return LEFT + n * (WIDTH - LEFT - RIGHT) / max(len(points) - 1, 1)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / most * (HEIGHT - TOP - BOTTOM)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>Holds a second against the number of clients</title>",
        f"<style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="20">Holds a second, by number of clients</text>',
    ]
    for step in range(5):
        value = most * step / 4
        lines += [
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}"'
            f' y2="{y(value):.1f}"/>',
            f'<text class="axis" x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">'
            f"{value:,.0f}</text>",
        ]
    for n, point in enumerate(points):
        lines.append(
            f'<text class="axis" x="{x(n):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">'
            f"{point['clients']}</text>"
        )
    lines.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 8}"'
        ' text-anchor="middle">clients</text>'
    )
    for name, key, title in (
        ("limit", "limit_per_s", "PostgreSQL alone"),
        ("site", "ok_per_s", "Holdfast"),
    ):
        at = [(x(n), y(point[key])) for n, point in enumerate(points)]
        path = " L".join(f"{across:.1f},{down:.1f}" for across, down in at)
        lines.append(f'<path class="{name}" d="M{path}"/>')
        lines += [
            f'<circle class="{name}" cx="{across:.1f}" cy="{down:.1f}" r="3.5"/>'
            for across, down in at
        ]
        lines.append(f'<text x="{at[-1][0] + 10:.1f}" y="{at[-1][1] + 4:.1f}">{title}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _round_up(value: float) -> float:
    """The next number of 1, 2, 4, 5 or 8 and noughts: an axis that people can read."""
    size = 1.0
    while size * 10 < value:
        size *= 10
    return next(size * step for step in (1, 2, 4, 5, 8, 10) if size * step >= value)
