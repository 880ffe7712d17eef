"""What is made of measurements: ratios the right way up, the best setting, peers that are not there."""

import json

import install
import pytest
import report
from table import LeftOut, Quantity, Table, markdown


def measured(quantity, sides, rounds=3):
    table = Table(rounds)
    table.measure([quantity], sides)
    return table


def test_more_than_one_is_better_of_both_kinds_of_quantities():
    more = measured(Quantity("decode", "tokens/s"), {"llamapen": lambda _: 30, "peer": lambda _: 20}).rows[0]
    less = measured(Quantity("first token", "ms", less=True), {"llamapen": lambda _: 20, "peer": lambda _: 30}).rows[0]
    assert more["ratios"] == less["ratios"] == [1.5] * 3


def test_ratios_are_of_one_round_each():
    drift = {"llamapen": lambda r: 10 * (r + 1), "peer": lambda r: 5 * (r + 1)}
    row = measured(Quantity("decode", "tokens/s"), drift).rows[0]
    assert (row["ratios"], row["llamapen"], row["theirs"]) == ([2, 2, 2], [10, 20, 30], [5, 10, 15])


@pytest.mark.parametrize("less, best", [(False, "-t 2"), (True, "-t 1")])
def test_of_several_settings_the_best_counts(less, best):
    settings = {"-t 1": lambda _: 10, "-t 2": lambda _: 40}
    row = measured(Quantity("x", "unit", less), {"llamapen": lambda _: 20, "peer": settings}).rows[0]
    assert row["setting"] == best and set(row["other_settings"]) == set(settings) - {best}


def test_a_peer_that_is_absent_is_named_and_the_rest_goes_on():
    def absent(_):
        raise install.Absent("no such package")

    table = measured(Quantity("x", "unit"), {"llamapen": lambda _: 1, "gone": absent, "there": lambda _: 1})
    assert [row["peer"] for row in table.rows] == ["there"] and table.absent == {"gone": "no such package"}


def test_our_own_failure_is_no_absence():
    def fails(_):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        measured(Quantity("x", "unit"), {"llamapen": fails, "peer": lambda _: 1})


def test_what_cannot_be_measured_here_is_left_out_alone():
    def left_out(_):
        raise LeftOut("no such feature")

    table = measured(Quantity("x", "unit"), {"llamapen": left_out, "peer": lambda _: 1})
    table.measure([Quantity("y", "unit")], {"llamapen": lambda _: 1, "peer": lambda _: 1})
    assert table.left_out == {"x": "no such feature"} and [row["what"] for row in table.rows] == ["y"]


def test_a_quantity_without_peers_shows_its_spread():
    row = measured(Quantity("submit", "µs", True), {"llamapen": lambda r: 1 + r}).rows[0]
    assert markdown(row) == "| submit, µs | – | – | – | 2 (1–3) | – |"


def test_a_quantity_that_no_peer_has_is_shown_alone():
    table = Table(1)
    sides = {"llamapen": lambda _: (1, 2), "peer": lambda _: (1, None)}
    table.measure([Quantity("all", "MiB"), Quantity("the host", "MiB", alone=True)], sides)
    assert [row.get("peer") for row in table.rows] == ["peer", None] and table.rows[1]["llamapen"] == [2]


def test_the_page_is_what_the_json_says(monkeypatch, tmp_path):
    for name in ("performance.md", "performance.json"):
        (tmp_path / name).write_bytes((report.DOCS / name).read_bytes())
    monkeypatch.setattr(report, "DOCS", tmp_path)
    monkeypatch.setattr("sys.argv", ["report.py", "--check"])
    with pytest.raises(SystemExit) as end:
        report.main()
    assert end.value.code is None
    data = json.loads((tmp_path / "performance.json").read_text())
    data["parts"][0]["rows"][0]["llamapen"] = [1]
    (tmp_path / "performance.json").write_text(json.dumps(data))
    with pytest.raises(SystemExit) as end:
        report.main()
    assert "is not what" in end.value.code
