"""Draws the flowcharts of the documentation as SVG, so that the site needs no script and no network for them.

It reads the part of Mermaid's language that our pages use: `flowchart TD`, nodes `name` and `name[label]`, and chains
`a & b -->|label| c`. Layers are longest paths, their order is by barycentres (Sugiyama). Text in, text out.
"""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

CHARACTER: Final = 7.3
"""Pixels of a character at 13 px, on average."""
LINE: Final = 17.0
BETWEEN_BOXES: Final = 22.0
BETWEEN_LAYERS: Final = 46.0
SWEEPS: Final = 12
_NODE: Final = re.compile(r"^([\w.]+)(?:\[\"?(.*?)\"?\])?$")


@dataclass
class Node:
    """A box, or a place (without lines) where a long edge passes a layer."""

    name: str
    lines: Sequence[str] = ()
    layer: int = 0
    x: float = 0.0

    @property
    def width(self) -> float:
        """In pixels."""
        return max((len(line) for line in self.lines), default=0) * CHARACTER + 22 if self.lines else 8.0

    @property
    def height(self) -> float:
        """In pixels; 0 for a place that an edge passes."""
        return len(self.lines) * LINE + 14 if self.lines else 0.0


@dataclass
class Chart:
    """Boxes and labelled arrows."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[tuple[str, str, str]] = field(default_factory=list)
    """from, to, label"""


def parse(text: str) -> Chart:
    """Read a flowchart.

    Raises:
        ValueError: a line is outside of the part that is understood.
    """
    chart = Chart()
    lines = [line.strip() for line in text.strip().splitlines()]
    if not lines or lines[0] != "flowchart TD":
        raise ValueError("a flowchart begins with `flowchart TD`")
    for line in filter(None, lines[1:]):
        parts = re.split(r"\s*-->(?:\|([^|]*)\|)?\s*", line)
        groups = [[_node(chart, word.strip(), line) for word in part.split(" & ")] for part in parts[::2]]
        for before, after, label in zip(groups, groups[1:], parts[1::2], strict=False):
            chart.edges += [(a, b, label or "") for a in before for b in after]
    _set_layers(chart)
    return chart


def _node(chart: Chart, word: str, line: str) -> str:
    match = _NODE.match(word)
    if match is None:
        raise ValueError(f"not understood: {line}")
    name, label = match[1], match[2]
    node = chart.nodes.setdefault(name, Node(name, [name]))
    if label is not None:
        node.lines = re.split(r"<br/?>", label)
    return name


def _set_layers(chart: Chart) -> None:
    """Each node below all those with an arrow to it; arrows that would close a circle point upwards."""
    below: dict[str, list[str]] = {name: [] for name in chart.nodes}
    for a, b, _label in chart.edges:
        upwards = _reaches(below, b, a)
        below[b if upwards else a].append(a if upwards else b)
    for _ in chart.nodes:
        for a, names in below.items():
            for b in names:
                chart.nodes[b].layer = max(chart.nodes[b].layer, chart.nodes[a].layer + 1)


def _reaches(below: dict[str, list[str]], start: str, end: str) -> bool:
    return start == end or any(_reaches(below, name, end) for name in below[start])


def draw(text: str) -> str:
    """The flowchart as one inline SVG element, in the colours of the page."""
    chart = parse(text)
    paths = _with_passages(chart)
    layers = _ordered(chart, paths)
    _place(layers, paths, chart)
    tops: list[tuple[float, float]] = []
    top = 8.0
    for layer in layers:
        height = max(node.height for node in layer)
        tops.append((top, height))
        top += height + BETWEEN_LAYERS
    left = min(node.x - node.width / 2 for layer in layers for node in layer) - 8
    width = max(node.x + node.width / 2 for layer in layers for node in layer) + 8 - left
    body = [_arrow([chart.nodes[name] for name in path], label, tops, left) for path, label in paths]
    body += [_box(node, tops[node.layer], left) for layer in layers for node in layer if node.lines]
    height = top - BETWEEN_LAYERS + 8
    label = "; ".join(
        f"{' '.join(chart.nodes[a].lines)} to {' '.join(chart.nodes[b].lines)}" for a, b, _ in chart.edges
    )
    return (
        f'<svg class="flowchart" role="img" aria-label="{html.escape(label)}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" xmlns="http://www.w3.org/2000/svg"><defs><marker id="arrow" viewBox="0 0 8 8" '
        f'refX="7" refY="4" '
        f'markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>{"".join(body)}</svg>'
    )


def _with_passages(chart: Chart) -> list[tuple[list[str], str]]:
    """The nodes along each arrow, with a new one in each layer that it passes."""
    paths = []
    for number, (a, b, label) in enumerate(list(chart.edges)):
        path = [a]
        first, last = chart.nodes[a].layer, chart.nodes[b].layer
        for layer in range(first + 1, last) if first < last else range(first - 1, last, -1):
            name = f"{number}.{layer}"
            chart.nodes[name] = Node(name, layer=layer)
            path.append(name)
        paths.append(([*path, b], label))
    return paths


def _neighbours(chart: Chart, paths: list[tuple[list[str], str]]) -> dict[str, tuple[list[Node], list[Node]]]:
    """Nodes above and below each node."""
    found: dict[str, tuple[list[Node], list[Node]]] = {name: ([], []) for name in chart.nodes}
    for path, _ in paths:
        for one, other in itertools.pairwise(path):
            a, b = (one, other) if chart.nodes[one].layer < chart.nodes[other].layer else (other, one)
            found[b][0].append(chart.nodes[a])
            found[a][1].append(chart.nodes[b])
    return found


def _ordered(chart: Chart, paths: list[tuple[list[str], str]]) -> list[list[Node]]:
    layers = [
        [node for node in chart.nodes.values() if node.layer == layer]
        for layer in range(max(node.layer for node in chart.nodes.values()) + 1)
    ]
    beside = _neighbours(chart, paths)
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        for layer in layers if downwards else reversed(layers):
            _spread(layer)
            wanted = {node.name: _mean(beside[node.name][0 if downwards else 1], node.x) for node in layer}
            layer.sort(key=lambda node: wanted[node.name])
            _spread(layer)
    return layers


def _mean(nodes: list[Node], otherwise: float) -> float:
    return sum(node.x for node in nodes) / len(nodes) if nodes else otherwise


def _spread(layer: list[Node]) -> None:
    """Side by side, the middle at 0."""
    x = -(sum(node.width for node in layer) + BETWEEN_BOXES * (len(layer) - 1)) / 2
    for node in layer:
        node.x = x + node.width / 2
        x += node.width + BETWEEN_BOXES


def _place(layers: list[list[Node]], paths: list[tuple[list[str], str]], chart: Chart) -> None:
    """Move boxes towards their neighbours, in their order and without overlap."""
    beside = _neighbours(chart, paths)
    for _ in range(SWEEPS):
        for layer in layers:
            wanted = [_mean([*beside[node.name][0], *beside[node.name][1]], node.x) for node in layer]
            for node, x in zip(layer, wanted, strict=True):
                node.x = x
            for a, b in itertools.pairwise(layer):
                b.x = max(b.x, a.x + (a.width + b.width) / 2 + BETWEEN_BOXES)
            shift = sum(node.x - x for node, x in zip(layer, wanted, strict=True)) / len(layer)
            for node in layer:
                node.x -= shift


def _box(node: Node, layer: tuple[float, float], left: float) -> str:
    top, height = layer
    y = top + (height - node.height) / 2
    lines = "".join(
        f'<text x="{node.x - left:.1f}" y="{y + 20 + LINE * number:.1f}">{html.escape(line)}</text>'
        for number, line in enumerate(node.lines)
    )
    return (
        f'<rect x="{node.x - node.width / 2 - left:.1f}" y="{y:.1f}" width="{node.width:.1f}" '
        f'height="{node.height:.1f}" rx="5"/>{lines}'
    )


def _arrow(path: list[Node], label: str, tops: list[tuple[float, float]], left: float) -> str:
    points: list[tuple[float, float]] = []
    down = 1 if path[0].layer < path[-1].layer else -1
    for node in path:
        top, height = tops[node.layer]
        middle = top + height / 2
        if node is path[0]:
            points.append((node.x - left, middle + down * node.height / 2))
        elif node is path[-1]:
            points.append((node.x - left, middle - down * node.height / 2))
        else:
            points += [(node.x - left, middle - down * height / 2), (node.x - left, middle + down * height / 2)]
    drawn = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        bend = (y0 + y1) / 2
        drawn += f"C{x0:.1f} {bend:.1f} {x1:.1f} {bend:.1f} {x1:.1f} {y1:.1f}"
    said = ""
    if label:
        (x0, y0), (x1, y1) = points[-2:]
        said = (
            f'<text class="label" x="{x0 + 0.7 * (x1 - x0):.1f}" '
            f'y="{(y0 + y1) / 2 + 4:.1f}">{html.escape(label)}</text>'
        )
    return f'<path class="arrow" d="{drawn}" marker-end="url(#arrow)"/>{said}'
