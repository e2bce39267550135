"""That the benchmarks run and say sane things; what they measure is only as true as the machine is quiet."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import __main__ as command
from benchmarks import batch, cold_start, idle, servers, session, soak, start, trips, turn, webhooks, worker
from benchmarks.machine import BenchmarkError
from benchmarks.table import README, Goal, Report, show, write
from tests.agent_core.channels.services.everyone import SPEAKERS


def rows(report: Report) -> dict[str, tuple[object, ...]]:
    return {str(row[0]): row[1:] for row in report.rows}


def test_start_measures_three_ways_to_start() -> None:
    report = start.run(quick=True)
    found = rows(report)
    assert list(found) == ["import agent_core", "+ build_app", "+ HTTP surface"]
    for cpu, _, _, peak, modules in found.values():
        assert 1 < cpu < 5000
        assert 10 < peak < 500
        assert 100 < modules < 2000
    assert [goal.limit for goal in report.goals] == [350, 60, 0]
    assert report.goals[2].met
    assert "standard library" in report.notes[2]


def test_cold_start_compares_the_package_with_a_handler_made_by_hand(shared_data: Path) -> None:
    report = cold_start.run(quick=True)
    found = rows(report)
    ways = (cold_start.OURS, cold_start.BASELINE)
    assert list(found) == [*ways, cold_start.BARE, *(name + cold_start.OVER_TLS for name in ways)]
    for name in ways:
        for cpu, least, loading, _, peak, _ in (found[name], found[name + cold_start.OVER_TLS]):
            assert 10 < loading < cpu < 10_000
            assert least <= cpu
            assert 10 < peak < 500
        assert 0 < found[name][-1] < 100
    assert [goal.limit for goal in report.goals] == [0.5, 0.4, 0.5, 0.4, 42, 3, 15, 40]
    chart = ElementTree.fromstring(cold_start.chart({"a": 1.0, cold_start.OURS: 2.0}))
    assert len(chart.findall("{*}rect")) == 2


def test_turn_compares_servers_over_http(shared_data: Path) -> None:
    report = turn.run(quick=True)
    found = rows(report)
    assert list(found) == ["Sampan", "Sampan, store in memory", "Starlette + aiohttp", "Starlette + httpx"]
    for _, whole, _, at_once, paced, _, *_, resident in found.values():
        assert 0 < whole < 100
        assert 0 < at_once < 200
        assert 0 < paced < 200
        assert 10 < resident < 500
    assert [goal.limit for goal in report.goals] == [3, 6, 5, 5, 5]


def test_batch_compares_lines_with_calls_of_the_model_itself(shared_data: Path) -> None:
    report = batch.run(quick=True)
    [(direct, rate, _, cpu, resident)] = rows(report).values()
    assert rate > 0
    assert direct > 0
    assert cpu > 0
    assert resident > 10
    assert [goal.limit for goal in report.goals] == [1 / 0.7, 150]


def test_without_the_shared_tools_turn_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(servers, "TOOLS", tmp_path)
    with pytest.raises(BenchmarkError, match=r"\.\./shared/bench/mock_model\.py is missing"):
        turn.run(quick=True)
    assert command.main(["turn", "--quick"]) == 2
    assert "run without it" in capsys.readouterr().err


def test_a_server_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    code = "raise SystemExit('the disk is on fire')"
    program = [sys.executable, "-c", code]
    with (
        pytest.raises(BenchmarkError, match="did not start: the disk is on fire"),
        servers.running(program, servers.free_port(), tmp_path / "log"),
    ):
        pass


def test_session_measures_young_and_old() -> None:
    report = session.run(quick=True)
    assert [(row[0], row[1]) for row in report.rows] == [("10", 10), ("60", 10), ("30", 40), ("60", 40)]
    for _, _, round_trips, bytes_read, cpu in report.rows:
        assert round_trips == 3
        assert 1000 < bytes_read < 100_000
        assert 0 < cpu < 100
    counted = [goal for goal in report.goals if not goal.name.startswith("CPU")]
    assert len(counted) == 4
    assert all(goal.met for goal in counted)


def test_worker_runs_its_records_side_by_side(shared_data: Path) -> None:
    report = worker.run(quick=True)
    batch, least, _ = rows(report)["batch, ms"]
    assert 300 <= least <= batch < 3000  # one after the other they would take as long as ten calls
    assert [goal.limit for goal in report.goals] == [1.15]


def test_sessions_that_nobody_uses_cost_nothing() -> None:
    report = idle.run(quick=True)
    assert all(goal.met for goal in report.goals)
    assert len({calls for _, calls, _ in report.rows}) == 1  # none or a thousand


def test_webhooks_are_acknowledged_after_the_write_that_accepts_them() -> None:
    report = webhooks.run(quick=True)
    kinds = [kind for kind, *_ in report.rows]
    assert kinds == sorted(speaker.kind for speaker in SPEAKERS)
    assert {"telegram", "slack", "github"} <= set(kinds)
    for _, p50, p99, asgi_p50, asgi_p99, _ in report.rows:
        assert 5 <= p50 <= p99
        assert 5 <= asgi_p50 <= asgi_p99
    assert report.rows[0][-1] > 50  # milliseconds: a process was started


def test_trips_are_what_is_promised() -> None:
    report = trips.run()
    assert rows(report)["one model call"] == (1, 3, 3)
    assert rows(report)["model, tool, model"] == (3, 5, 5)
    assert [goal.met for goal in report.goals] == [True]


def test_soak_loads_the_server_and_counts_what_was_paid(shared_data: Path) -> None:
    samples, calls = soak.soak(0, sessions=32)
    assert len(samples) == 6
    assert calls == samples[-1].turns == 6 * 32
    goals = soak.verdict(samples, calls)
    assert [goal.name for goal in goals][-1] == "model calls that were not exactly one per turn"
    assert goals[-1].met


def test_a_leak_and_a_double_payment_are_seen() -> None:
    samples = [soak.Sample(n, 100 * n, "whole", 50.0 + 10 * n, 5 + n, 20, 25.0, 1.0) for n in range(1, 10)]
    goals = {goal.name: goal for goal in soak.verdict(samples, 901)}
    assert [goal.met for goal in goals.values()] == [False, False, True, False]
    assert goals["growth of memory"].measured == pytest.approx(30.0)


def test_the_tables_go_between_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(
        "before\n<!-- begin trips: written by the benchmark -->\nold\n<!-- end trips -->\nafter\n"
    )
    report = Report("trips", "Trips", ("turn", "trips"), rows=[("plain", 3)], goals=[Goal("trips", 4, 3)])
    write(report, page)
    write(report, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("## Trips") == 1
    assert "| trips | 3  | 4  | **not met** |" in text
    assert "| plain | 3 |" in text


@pytest.mark.parametrize("name", list(command.ALL))
def test_the_page_has_a_place_for_each_table(name: str) -> None:
    text = command.PAGES.get(name, README).read_text()
    assert f"<!-- begin {name}: " in text
    assert f"<!-- end {name} -->" in text


def test_numbers_show_as_many_digits_as_mean_something() -> None:
    assert [show(value) for value in (1.234, 12.34, 123.4, 3, "x", None)] == [
        "1.23",
        "12.3",
        "123",
        "3",
        "x",
        "",
    ]


def test_a_quick_run_leaves_the_page_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = README.read_bytes()
    assert command.main(["trips", "--quick"]) == 0
    assert README.read_bytes() == before
    assert "## Round trips to the store" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(["nothing"])
