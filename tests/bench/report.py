"""The results of the benchmark as tables, as JSON and as PNG curves."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles

MISSING_MATPLOTLIB = "No curves are drawn: matplotlib is missing (pip install -e '.[bench]')."


@dataclass(frozen=True)
class Row:
    """One figure: a value of each repetition, by column."""

    label: str
    values: dict[str, list[float]]


@dataclass(frozen=True)
class Curve:
    """One diagram: points by line."""

    name: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]]
    log_x: bool = False


@dataclass
class Result:
    """What one measurement found."""

    title: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)

    def table(self) -> list[str]:
        """Return the lines of the table: medians, with the least and the greatest value where there are several."""
        columns = list(dict.fromkeys(column for row in self.rows for column in row.values))
        cells = [["", *columns]]
        cells += [[row.label, *(_cell(row.values.get(column, [])) for column in columns)] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
            for line in cells
        ]
        return [f"## {self.title}", "", *(line.rstrip() for line in lines), *self.notes, ""]


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    middle = _number(median(values))
    return middle if len(values) == 1 else f"{middle} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def compared(label: str, other: str, ours: Sequence[float], others: Sequence[float]) -> Row:
    """Return a row of ours beside another, with the ratio of each pair that was measured one after the other."""
    ratios = [mine / theirs for mine, theirs in zip(ours, others, strict=False)]
    return Row(label, {"ours": list(ours), other: list(others), "ratio": ratios})


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile of at least two values."""
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def distribution(values: Iterable[float]) -> list[tuple[float, float]]:
    """Return the points of a distribution: value in milliseconds, share of the values up to it in percent."""
    ordered = sorted(values)
    step = max(1, len(ordered) // 200)
    return [(value * 1000, 100 * (n + 1) / len(ordered)) for n, value in list(enumerate(ordered))[::step]]


def write_json(results: dict[str, Result], path: Path) -> None:
    """Write all values of all repetitions."""
    path.write_text(json.dumps({name: asdict(result) for name, result in results.items()}, indent=2) + "\n")


def draw(curves: Iterable[Curve], folder: Path) -> None:
    """Draw each curve into a PNG of its name.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib as mpl  # noqa: PLC0415 - an extra of its own

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the choice of the backend

    folder.mkdir(parents=True, exist_ok=True)
    for curve in curves:
        figure, axes = plt.subplots(figsize=(6, 3.4), dpi=90, layout="constrained")
        for name, points in curve.lines.items():
            axes.plot(*zip(*points, strict=True), label=name, marker="o" if len(points) < 12 else "")
        axes.set(xlabel=curve.x, ylabel=curve.y, ylim=(0, None))
        if curve.log_x:
            axes.set_xscale("log")
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
        figure.savefig(folder / f"{curve.name}.png")
        plt.close(figure)
