"""Rounds in which all sides take turns, and what comes of them: a ratio per round, and of those the median, least and most."""

import subprocess
from collections import namedtuple
from statistics import median

from install import VERSIONS, Absent

# `less`: smaller is better. `wanted`: a ratio, by peer. `alone`: no peer has anything like it.
Quantity = namedtuple("Quantity", "what unit less wanted alone", defaults=(False, {}, False))
OURS = "llamapen"


class LeftOut(Exception):
    """What cannot be measured here, and why."""


class Table:
    """Collects the rows of one part, for one file."""

    def __init__(self, rounds):
        self.rounds, self.rows, self.absent, self.left_out = rounds, [], {}, {}

    def measure(self, quantities, sides, rounds=None):
        """`sides`: by name and setting, as {"llamapen": measure, "llama-server": {"-np 2": measure, ...}}; ours comes first, may
        be the only one, and may have no settings. `measure(round)` gives a value per quantity, or the only one. Of several
        settings of a peer the best one counts."""
        flat = {}
        for name, measures in sides.items():
            by_setting = measures if isinstance(measures, dict) else {"": measures}
            flat.update({(name, setting): measure for setting, measure in by_setting.items()})
        try:
            values = self.in_turn(flat, rounds or self.rounds)
        except LeftOut as why:
            for quantity in quantities:
                self.left_out[quantity.what] = str(why)
                print(f"| {quantity.what} | left out: {why} |", flush=True)
            return
        peers = [name for name in sides if name != OURS and name not in self.absent]
        for at, quantity in enumerate(quantities):
            ours = [value[at] for value in values[OURS, ""]]
            for name in [None] if quantity.alone else peers or [None]:
                theirs = {setting: [value[at] for value in of] for (side, setting), of in values.items() if side == name}
                self.rows.append(row(quantity, ours, name, theirs))
                print(markdown(self.rows[-1]), flush=True)

    def in_turn(self, flat, rounds):
        """The values of each side, one per round; a peer that is absent, or fails, has no more of them."""
        values = {side: [] for side in flat}
        for round_ in range(rounds):
            # Who was first is last in the next round.
            for name, setting in list(flat)[:: 1 if round_ % 2 == 0 else -1]:
                if name in self.absent:
                    continue
                try:
                    value = flat[name, setting](round_)
                except (Absent, RuntimeError, OSError, subprocess.SubprocessError) as error:
                    if name == OURS:
                        raise
                    self.absent[name] = str(error)
                    continue
                values[name, setting].append(value if isinstance(value, (list, tuple)) else [value])
        return values


def row(quantity, ours, peer, by_setting):
    found = {"what": quantity.what, "unit": quantity.unit, "less": quantity.less, "llamapen": rounded(ours)}
    if peer is None:
        return found
    best = (min if quantity.less else max)(by_setting, key=lambda setting: median(by_setting[setting]))
    theirs = by_setting[best]
    ratios = [t / o if quantity.less else o / t for o, t in zip(ours, theirs)]
    settings = {setting: rounded(values) for setting, values in by_setting.items() if setting != best}
    return {**found, "peer": peer, "setting": best, "wanted": quantity.wanted.get(peer), "ratios": rounded(ratios),
            "theirs": rounded(theirs), "other_settings": settings}


def rounded(values):
    return [float(f"{value:.4g}") for value in values]


HEAD = "| what | beside | ratio, median (least–most) | wanted | llamapen | peer |\n|---|---|---|---|---|---|"


def markdown(row):
    """A row as it is shown."""
    what, ours = f"{row['what']}, {row['unit']}", show(row["llamapen"])
    if "peer" not in row:
        return f"| {what} | – | – | – | {ours} ({show_spread(row['llamapen'])}) | – |"
    peer, wanted = f"{row['peer']} {row['setting']}".strip(), row["wanted"] or "–"
    ratio = f"**{median(row['ratios']):.2f}** ({min(row['ratios']):.2f}–{max(row['ratios']):.2f})"
    return f"| {what} | {peer} | {ratio} | {wanted} | {ours} | {show(row['theirs'])} |"


def show(values):
    return number(median(values))


def show_spread(values):
    return f"{number(min(values))}–{number(max(values))}"


def number(value):
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def versions(absent):
    """What there is, and why not what is not there."""
    return {**VERSIONS, **{name: f"absent: {why}" for name, why in absent.items()}}
