"""What a benchmark found, as Markdown, and where in README.md it goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

README = Path(__file__).with_name("README.md")


@dataclass(frozen=True)
class Goal:
    """A promise: what was measured must be at most `limit`. `unit` stands behind both."""

    name: str
    measured: float
    limit: float
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether it is kept."""
        return self.measured <= self.limit

    def line(self) -> str:
        """A row of the table of goals."""
        verdict = "met" if self.met else "**not met**"
        return f"| {self.name} | {show(self.limit)} {self.unit} | {show(self.measured)} {self.unit} | {verdict} |"


@dataclass
class Report:
    """A table with its goals and the words that say what the numbers mean."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[object, ...]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    machine: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """All of it."""
        lines = [f"## {self.title}", "", *self.machine, ""]
        if self.goals:
            lines += [
                "| goal | at most | measured | |",
                "|---|--:|--:|---|",
                *(goal.line() for goal in self.goals),
                "",
            ]
        lines += [_row(self.columns), "|---" + "|--:" * (len(self.columns) - 1) + "|"]
        lines += [_row(tuple(show(cell) for cell in row)) for row in self.rows]
        return "\n".join([*lines, "", *self.notes]).rstrip() + "\n"


def _row(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def show(value: object) -> str:
    """A number with as many digits as mean something."""
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def write(report: Report, path: Path = README) -> None:
    """Put the report between its marks; what stands elsewhere in the file stays."""
    begin, end = f"<!-- begin {report.name}: written by the benchmark -->", f"<!-- end {report.name} -->"
    text = path.read_text()
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{path.name} has no marks for {report.name!r}")
    path.write_text(f"{before}{begin}\n{report.markdown()}{end}{after}")
