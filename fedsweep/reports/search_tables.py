"""Tables of the results of searches, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from fedsweep.measures import MEASURES
from fedsweep.reports.fit import Column, Grid
from fedsweep.reports.search_results import Gain, SearchResult, arm_names
from fedsweep.reports.tables import WIDE, markdown_heading, markdown_line


def rows(results: Sequence[SearchResult]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and lines of a table of search results, a line for each arm."""
    rivals = list(dict.fromkeys(gain.rival for result in results for gain in result.gains))
    metrics = dict.fromkeys(MEASURES[result.arm.spec.search.metric].samples for result in results)
    headings = ["arm", "best T⋆", "90 % interval", f"{'/'.join(metrics)}, %"]
    headings += [f"gain over {rival}" for rival in rivals]
    headings += ["tried", "rounds, of a grid's", "standing"]
    lines = []
    for name, result in zip(arm_names(results), results, strict=True):
        best = result.estimate
        gains = {gain.rival: gain for gain in result.gains}
        fraction = f"{best.spent / best.whole_grid:.0%}" if best.whole_grid else ""
        lines.append(
            [
                name,
                "–" if best.freeze_round is None else str(best.freeze_round),
                "–" if best.low is None else f"{best.low} – {best.high}",
                "–" if result.value is None else f"{100 * result.value:.2f}",
                *(gain_text(gains.get(rival)) for rival in rivals),
                f"{len(result.history)} of {result.points}",
                f"{best.spent:,} of {best.whole_grid:,} ({fraction})",
                result.standing,
            ]
        )
    return headings, lines


def gain_text(gain: Gain | None) -> str:
    """Return text such as "+1.20 (+0.40 to +2.00)", in points.

    It ends in † if T* was selected on the same seeds.
    """
    if gain is None:
        return "–"
    mark = "" if gain.fresh else "†"
    if gain.low is None or gain.high is None:
        return f"{100 * gain.mean:+.2f}{mark}"
    return f"{100 * gain.mean:+.2f} ({100 * gain.low:+.2f} to {100 * gain.high:+.2f}){mark}"


def notes(results: Sequence[SearchResult]) -> list[str]:
    """Return notes on how to read the numbers, and why each search ended."""
    texts = [
        "gains: test accuracy, points, mean and 95 % interval of paired differences over seeds",
        "rounds: used by the arm and its trunk, of those of a grid that shares no trunk",
    ]
    if any(result.undecided for result in results):
        texts.append("an interval holds every T⋆: these seeds cannot tell which T⋆ is best")
    if any(not gain.fresh for result in results for gain in result.gains):
        texts.append("† on the seeds that selected T⋆: plan with confirm_seeds to use others")
    if any(result.arm.spec.search.metric == "test_accuracy" for result in results):
        texts.append("T⋆ was selected by the TEST accuracy, as the plan says: the gains are biased")
    for name, result in zip(arm_names(results), results, strict=True):
        if result.arm.said:
            texts.append(f"{name}: {result.standing}: {result.arm.said}")
    return texts


def terminal(results: Sequence[SearchResult], width: int = WIDE) -> list[RenderableType]:
    """Return the table of results for a terminal of this width, and the notes."""
    headings, lines = rows(results)
    grid = Grid(
        columns=[Column(name, left=name == "arm") for name in headings],
        rows=lines,
        title=f"{results[0].arm.sweep_name}: the best freeze round",
    )
    return [grid.fitted(width), Text("\n".join(notes(results)), style="dim")]


def markdown(results: Sequence[SearchResult]) -> str:
    """Return the table as a GitHub table, with the notes as a list."""
    headings, lines = rows(results)
    heading = markdown_heading(f"{results[0].arm.sweep_name}: the best freeze round")
    parts = [heading, "", markdown_line(headings)]
    parts += [markdown_line(["---:"] * len(headings)), *map(markdown_line, lines), ""]
    return "\n".join([*parts, *(f"- {note}" for note in notes(results))]) + "\n"
