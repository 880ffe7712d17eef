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

COLOURS = ["#2a6f97", "#e07a1f", "#5a9e6f", "#8d5a97"]
TICKS = [0.25, 0.5, 1, 2, 4, 8, 16, 32]


def main(source, target):
    with open(source) as file:
        parts = json.load(file)["parts"]
    models = list(dict.fromkeys(part["model"] for part in parts))
    ratios = {}
    for part in parts:
        for row in part["rows"]:
            if "peer" in row:
                ratios.setdefault(f"{row['what']}, beside {row['peer']}", {})[part["model"]] = row["ratios"]
    figure, axes = pyplot.subplots(figsize=(9, 0.8 + 0.26 * len(ratios) * max(1, 0.6 * len(models))))
    width = 0.8 / len(models)
    for i, model in enumerate(models):
        of_model = [(at, label[model]) for at, label in enumerate(ratios.values()) if model in label]
        places, middles = [at + (i + 0.5) * width - 0.4 for at, _ in of_model], [median(values) for _, values in of_model]
        spread = [[m - min(v) for m, (_, v) in zip(middles, of_model)], [max(v) - m for m, (_, v) in zip(middles, of_model)]]
        colour = COLOURS[i % len(COLOURS)]
        # Bars begin at 1, where both are alike.
        axes.barh(places, [m - 1 for m in middles], width * 0.9, left=1, color=colour, label=model)
        axes.errorbar(middles, places, xerr=spread, fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log", base=2)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.5), max(high, 2))
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in TICKS if min(low, 0.5) <= tick <= max(high, 2)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.invert_yaxis()
    axes.set_xlabel("times as good as the peer: median, least and most of the rounds")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(models), frameon=False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.savefig(target, bbox_inches="tight", metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
