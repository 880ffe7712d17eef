"""Draws the ratios of a run as an SVG: `chart.py RUN.json CHART.svg`, by a Python that has matplotlib.

The same JSON gives the same bytes.
"""

import json
import sys
from statistics import median

import matplotlib

matplotlib.use("svg")
# Texts stay texts, which keeps the file small; identifiers come from the contents.
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "llamapen", "font.family": "sans-serif", "font.size": 9})
from matplotlib import pyplot  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: E402

TICKS = [0.25, 0.5, 1, 2, 4, 8, 16, 32]
# Inches.
ROW, REST = 0.2, 0.6


def main(source, target):
    with open(source) as file:
        parts = json.load(file)["parts"]
    models = {}
    for part in parts:
        rows = [(f"{row['what']}, beside {row['peer']}", row["ratios"]) for row in part["rows"] if "peer" in row]
        models.setdefault(part["model"], []).extend(rows)
    heights = [ROW * len(rows) + REST for rows in models.values()]
    options = {"sharex": True, "squeeze": False, "height_ratios": heights, "layout": "constrained"}
    figure, places = pyplot.subplots(len(models), figsize=(9, sum(heights)), **options)
    for axes, (model, rows) in zip(places[:, 0], models.items()):
        draw(axes, model, rows)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("times as good as the peer: median, least, most")
    figure.savefig(target, bbox_inches="tight", metadata={"Date": None, "Creator": None})


def draw(axes, model, rows):
    middles, at = [median(ratios) for _, ratios in rows], range(len(rows))
    spread = [[m - min(r) for m, (_, r) in zip(middles, rows)], [max(r) - m for m, (_, r) in zip(middles, rows)]]
    # Bars begin at 1, where both are alike.
    axes.barh(at, [m - 1 for m in middles], 0.7, left=1, color=["#2a6f97" if m >= 1 else "#e07a1f" for m in middles])
    axes.errorbar(middles, at, xerr=spread, fmt="none", ecolor="black", elinewidth=1)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_yticks(at, [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_title(model, loc="left", fontsize=10)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    main(*sys.argv[1:])
