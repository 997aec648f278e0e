"""What searches found as a table: for the terminal and Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from fedsweep.measures import MEASURES
from fedsweep.report.findings import Finding, Gain, names
from fedsweep.report.fit import Column, Grid
from fedsweep.report.tables import WIDE, markdown_heading, markdown_line


def rows(findings: Sequence[Finding]) -> tuple[list[str], list[list[str]]]:
    """The headings and lines of what searches found: an arm a line."""
    rivals = list(dict.fromkeys(gain.rival for f in findings for gain in f.gains))
    metrics = dict.fromkeys(MEASURES[f.arm.spec.search.metric].samples for f in findings)
    headings = ["arm", "best T⋆", "90 % interval", f"{'/'.join(metrics)}, %"]
    headings += [f"gain over {rival}" for rival in rivals]
    headings += ["tried", "rounds, of a grid's", "standing"]
    lines = []
    for name, f in zip(names(findings), findings, strict=True):
        found = f.answer
        gains = {gain.rival: gain for gain in f.gains}
        share = f"{found.spent / found.whole_grid:.0%}" if found.whole_grid else ""
        lines.append(
            [
                name,
                "–" if found.freeze_round is None else str(found.freeze_round),
                "–" if found.low is None else f"{found.low} – {found.high}",
                "–" if f.value is None else f"{100 * f.value:.2f}",
                *(gain_text(gains.get(rival)) for rival in rivals),
                f"{len(f.history)} of {f.points}",
                f"{found.spent:,} of {found.whole_grid:,} ({share})",
                f.standing,
            ]
        )
    return headings, lines


def gain_text(gain: Gain | None) -> str:
    """+1.20 (0.40 to 2.00), in points; † where T* was selected on the same seeds."""
    if gain is None:
        return "–"
    mark = "" if gain.fresh else "†"
    if gain.low is None or gain.high is None:
        return f"{100 * gain.mean:+.2f}{mark}"
    return f"{100 * gain.mean:+.2f} ({100 * gain.low:+.2f} to {100 * gain.high:+.2f}){mark}"


def notes(findings: Sequence[Finding]) -> list[str]:
    """How the numbers are to be read, and why each search ended."""
    said = [
        "gains: test accuracy, points, mean and 95 % interval of paired differences over seeds",
        "rounds: the arm's, its trunk included, of those of a grid over its T⋆ that shares nothing",
    ]
    if any(not gain.fresh for f in findings for gain in f.gains):
        said.append("† on the seeds that selected T⋆: plan with confirm_seeds for others")
    if any(f.arm.spec.search.metric == "test_accuracy" for f in findings):
        said.append("T⋆ was searched by the TEST accuracy, as the plan says: no gain is unbiased")
    for name, f in zip(names(findings), findings, strict=True):
        if f.arm.said:
            said.append(f"{name}: {f.standing}: {f.arm.said}")
    return said


def terminal(findings: Sequence[Finding], width: int = WIDE) -> list[RenderableType]:
    """Return what searches found, in so many columns, and how to read it."""
    headings, lines = rows(findings)
    grid = Grid(
        columns=[Column(name, left=name == "arm") for name in headings],
        rows=lines,
        title=f"{findings[0].arm.sweep_name}: the best freeze round",
    )
    return [grid.fitted(width), Text("\n".join(notes(findings)), style="dim")]


def markdown(findings: Sequence[Finding]) -> str:
    """The same as a GitHub table."""
    headings, lines = rows(findings)

    heading = markdown_heading(f"{findings[0].arm.sweep_name}: the best freeze round")
    said = [heading, "", markdown_line(headings)]
    said += [markdown_line(["---:"] * len(headings)), *map(markdown_line, lines), ""]
    return "\n".join([*said, *(f"- {note}" for note in notes(findings))]) + "\n"
