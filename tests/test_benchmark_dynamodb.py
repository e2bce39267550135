"""That the comparison with boto3 runs and compares the same calls."""

from __future__ import annotations

from pathlib import Path

from benchmarks import dynamodb


def test_all_clients_make_all_calls(shared_data: Path) -> None:
    report = dynamodb.run(quick=True)
    assert [row[0] for row in report.rows] == list(dynamodb.VERBS)
    for _, *cpu, core, aio in report.rows:
        assert all(10 < float(number) < 50_000 for number in cpu)
        assert 0 < core < 3
        assert 0 < aio < 3
    assert {goal.limit for goal in report.goals} == {dynamodb.GOAL}
