"""The tables of docs/study.md, from the results of the study in docs/study/.

`python -m reference.study FOLDER` takes the results from a folder of `fedsweep export parquet`. Of
the curves it keeps the accuracies of the rounds that were evaluated, and the median time of the
others.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from fedsweep.reports.statistics import paired_difference
from reference.docstrings import REPOSITORY
from reference.markdown import table

PAGE = REPOSITORY / "docs" / "study.md"
FOLDER = REPOSITORY / "docs" / "study"

STUDY = "study-cifar10"
LEARNING_RATES = "study-cifar10-lr"
"""The names of the two sweeps."""

FILES = ("results", "curves", "ledger", "times")
EXPORTED = FILES[:3]
"""The views that an export has under the names of the files."""
ACCURACIES = ("test_accuracy", "validation_accuracy")

SETTING = ["local_steps", "momentum", "alpha"]
"""The fields that make a row of a table."""
NAMES = {"bn": "BN", "fixbn": "FIXBN", "gn": "GN"}

BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(\n<!-- end -->)", re.DOTALL)
"""A table in the page. Its text is between two comments."""

Setting = tuple[int, str, float]
BySeed = Mapping[int, float]
Tried = tuple[float, int]
"""A learning rate and T*."""
Rows = list[dict[str, Any]]


def read_rows(file: Path) -> Rows:
    """Return the rows of a Parquet file."""
    rows: Rows = [
        {str(name): value for name, value in row.items()}
        for row in pd.read_parquet(file).to_dict("records")
    ]
    return rows


def where(rows: Rows, **values: object) -> Rows:
    """Return the rows that have these values."""
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def of_setting(rows: Rows, setting: Setting, normalizer: str) -> Rows:
    """Return the rows of a setting and a normalizer."""
    return where(rows, normalizer=normalizer, **dict(zip(SETTING, setting, strict=True)))


def settings_of(rows: Rows) -> list[Setting]:
    """Return the settings of some trials: E, momentum (`reset` first) and alpha, ascending."""
    steps, momentum, alpha = SETTING
    found = {(row[steps], row[momentum], row[alpha]) for row in rows}
    return sorted(found, key=lambda setting: (setting[0], setting[1] != "reset", setting[2]))


def by_seed(rows: Rows, measure: str) -> dict[int, float]:
    """Return a measure of some trials by their seed."""
    return {row["seed"]: row[measure] for row in rows}


@dataclass(frozen=True)
class Study:
    """The results of the sweeps."""

    results: Rows
    curves: Rows
    ledger: Rows
    times: Rows

    @classmethod
    def read(cls, folder: Path = FOLDER) -> Study:
        """Read the files of a folder."""
        results, curves, ledger, times = (read_rows(folder / f"{name}.parquet") for name in FILES)
        return cls(where(results, state="finished"), curves, ledger, times)

    def of(self, sweep: str) -> Rows:
        """Return the finished trials of a sweep."""
        return where(self.results, sweep=sweep)

    @cached_property
    def settings(self) -> list[Setting]:
        """The rows of the tables."""
        return settings_of(self.of(STUDY))

    def trials(self, setting: Setting, normalizer: str) -> Rows:
        """Return the trials of the study of a setting and a normalizer."""
        return of_setting(self.of(STUDY), setting, normalizer)

    def tried(self, setting: Setting) -> dict[Tried, dict[int, float]]:
        """Return the validation accuracies of FIXBN by seed, for each learning rate and T*.

        A search gives up some T* before all seeds have tried them. These are left out.
        """
        rows = self.trials(setting, "fixbn")
        seeds = {row["seed"] for row in self.trials(setting, "bn")}
        points = sorted({(row["lr"], int(row["freeze_round"])) for row in rows})
        tried = {
            (lr, frozen): by_seed(where(rows, lr=lr, freeze_round=frozen), "validation_accuracy")
            for lr, frozen in points
        }
        return {point: values for point, values in tried.items() if seeds <= set(values)}

    def chosen(self, setting: Setting) -> Tried | None:
        """Return the learning rate and T* with the best mean; the later T* of equal ones.

        None if none was tried on all seeds.
        """
        tried = self.tried(setting)
        return max(tried, key=lambda point: (mean(tried[point]), point[1]), default=None)

    def arm_trials(self, setting: Setting, normalizer: str) -> Rows:
        """Return the trials of an arm. FIXBN has those of the chosen learning rate and T*."""
        rows = self.trials(setting, normalizer)
        if normalizer != "fixbn":
            return rows
        if (chosen := self.chosen(setting)) is None:
            return []
        lr, frozen = chosen
        return where(rows, lr=lr, freeze_round=frozen)

    def arm(self, setting: Setting, normalizer: str) -> BySeed:
        """Return the test accuracies of an arm by seed."""
        return by_seed(self.arm_trials(setting, normalizer), "test_accuracy")


def mean(values: BySeed) -> float:
    """Return the mean over the seeds."""
    return fmean(values.values())


def percent(value: float) -> str:
    """Return a fraction in percent."""
    return f"{100 * value:.1f}"


def unbroken(text: str) -> str:
    """Return a text that stays on one line of a narrow column."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def points(first: BySeed, second: BySeed) -> str:
    """Return first minus second in percentage points, with its paired 95 % interval."""
    found = paired_difference(first, second)
    if found is None or found.low is None or found.high is None:
        return "–"
    low, high = 100 * found.low, 100 * found.high
    mark = " *" if low > 0 or high < 0 else ""
    return f"{100 * found.mean:+.1f} {unbroken(f'[{low:+.1f}, {high:+.1f}]{mark}')}"


def spread(values: BySeed) -> str:
    """Return mean and standard deviation over the seeds, in percent."""
    if len(values) < 2:
        return "–"
    return unbroken(f"{percent(mean(values))} ± {percent(stdev(values.values()))}")


def cells(setting: Setting) -> list[str]:
    """Return the first cells of a row."""
    steps, momentum, alpha = setting
    return [str(steps), momentum, f"{alpha:g}"]


HEADINGS = ["E", "momentum", "α"]


def accuracy(study: Study) -> str:
    """Return the test accuracy of each arm."""
    return table(
        [*HEADINGS, "BN", "GN", "FIXBN", "T⋆ / T"],
        (
            [
                *cells(setting),
                *(spread(study.arm(setting, name)) for name in ("bn", "gn", "fixbn")),
                chosen_share(study, setting),
            ]
            for setting in study.settings
        ),
    )


def chosen_share(study: Study, setting: Setting) -> str:
    """Return the T* that was chosen for FIXBN, in percent of the rounds."""
    chosen = study.chosen(setting)
    return f"{chosen[1] / rounds(study, setting):.0%}" if chosen else "–"


def rounds(study: Study, setting: Setting) -> int:
    """Return T, the rounds of the trials of a setting."""
    (found,) = {int(row["rounds"]) for row in study.trials(setting, "bn")}
    return found


def differences(study: Study) -> str:
    """Return the paired differences of the arms."""
    pairs = [("bn", "gn"), ("fixbn", "bn"), ("fixbn", "gn")]
    return table(
        [*HEADINGS, *(f"{NAMES[first]} − {NAMES[second]}" for first, second in pairs)],
        (
            [
                *cells(setting),
                *(points(study.arm(setting, a), study.arm(setting, b)) for a, b in pairs),
            ]
            for setting in study.settings
        ),
    )


def momentum(study: Study) -> str:
    """Return the differences of momentum `global` and `reset`."""
    return table(
        ["E", "α", *(NAMES.values())],
        (
            [
                str(steps),
                f"{alpha:g}",
                *(
                    points(
                        study.arm((steps, "global", alpha), normalizer),
                        study.arm((steps, kept, alpha), normalizer),
                    )
                    for normalizer in NAMES
                ),
            ]
            for steps, kept, alpha in study.settings
            if kept == "reset"
        ),
    )


def freeze_rounds(study: Study) -> str:
    """Return the mean validation accuracy of each tried T*, a row for each learning rate."""
    return table(
        [*HEADINGS, "learning rate", "mean validation accuracy by T⋆ / T"],
        (
            [*cells(setting), f"{rate:g}", ", ".join(_by_freeze_round(study, setting, rate))]
            for setting in study.settings
            for rate in sorted({lr for lr, _ in study.tried(setting)})
        ),
    )


def _by_freeze_round(study: Study, setting: Setting, rate: float) -> Iterator[str]:
    tried = study.tried(setting)
    for (lr, frozen), values in tried.items():
        if lr == rate:
            share = f"{frozen / rounds(study, setting):.0%}"
            text = unbroken(f"{share}: {percent(mean(values))}")
            yield f"**{text}**" if (lr, frozen) == study.chosen(setting) else text
    bn = study.trials(setting, "bn")
    if {row["lr"] for row in bn} == {rate} and (rate, rounds(study, setting)) not in tried:
        yield unbroken(f"BN: {percent(mean(by_seed(bn, 'validation_accuracy')))}")


def convergence(study: Study) -> str:
    """Return the gain of the last fifth of the rounds, which tells how much is still to come."""
    return table(
        [*HEADINGS, *NAMES.values()],
        (
            [*cells(setting), *(late_gain(study, setting, name) for name in NAMES)]
            for setting in study.settings
        ),
    )


def late_gain(study: Study, setting: Setting, normalizer: str) -> str:
    """Return the mean gain of the test accuracy in the last fifth, in percentage points."""
    trials = {row["trial_id"] for row in study.arm_trials(setting, normalizer)}
    if not trials:
        return "–"
    curves = [row for row in study.curves if row["trial_id"] in trials]
    last = rounds(study, setting)
    final, before = (
        fmean(row["test_accuracy"] for row in where(curves, round=at))
        for at in (last, 4 * last // 5)
    )
    return f"{100 * (final - before):+.1f}"


def learning_rates(study: Study) -> str:
    """Return the validation accuracy of each learning rate. The chosen one is bold."""
    rows = study.of(LEARNING_RATES)
    return table(
        [*HEADINGS, *NAMES.values()],
        (
            [*cells(setting), *(tuned(of_setting(rows, setting, name)) for name in NAMES)]
            for setting in settings_of(rows)
        ),
    )


def tuned(rows: Rows) -> str:
    """Return the validation accuracy of the learning rates of an arm. The best one is bold."""
    values = {row["lr"]: row["validation_accuracy"] for row in rows}
    best = max(values.values())
    shown = [(unbroken(f"{lr:g}: {percent(v)}"), v) for lr, v in sorted(values.items())]
    return ", ".join(f"**{text}**" if value == best else text for text, value in shown)


def times(study: Study) -> str:
    """Return the median time of a round, before and after T*."""
    columns = {
        "BN": ("bn", "explore"),
        "FIXBN up to T⋆": ("fixbn", "explore"),
        "FIXBN after T⋆": ("fixbn", "calibrate"),
        "GN": ("gn", "explore"),
    }
    return table(
        ["E", *columns],
        ([str(steps), *(_time(study, steps, *column) for column in columns.values())]
         for steps in sorted({row["local_steps"] for row in study.times})),
    )  # fmt: skip


def _time(study: Study, steps: int, normalizer: str, phase: str) -> str:
    (row,) = where(study.times, local_steps=steps, normalizer=normalizer, phase=phase)
    return f"{1000 * row['median_seconds']:,.0f}"


def ledger(study: Study) -> str:
    """Return the rounds and the hours of both sweeps."""
    return table(
        ["sweep", "trials", "rounds trained", "shared", "lost", "hours trained", "hours saved"],
        (
            [
                f"`{row['sweep']}`",
                str(len(study.of(row["sweep"]))),
                f"{row['rounds_trained']:,}",
                f"{row['rounds_shared']:,}",
                f"{row['rounds_lost']:,}",
                f"{row['seconds_trained'] / 3600:.1f}",
                f"{row['seconds_saved'] / 3600:.1f}",
            ]
            for row in study.ledger
        ),
    )


TABLES: dict[str, Callable[[Study], str]] = {
    "accuracy": accuracy,
    "differences": differences,
    "momentum": momentum,
    "freeze-rounds": freeze_rounds,
    "convergence": convergence,
    "learning-rates": learning_rates,
    "times": times,
    "ledger": ledger,
}
"""The tables, by the name that the page gives them."""


def written(text: str, study: Study) -> str:
    """Return the page with its tables written again.

    Raises:
        KeyError: the page names a table that is none of `TABLES`.

    """
    return BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]](study)}{found[3]}", text)


def write(page: Path = PAGE, folder: Path = FOLDER) -> None:
    """Write the tables of the page again."""
    text = page.read_text(encoding="utf-8")
    page.write_text(written(text, Study.read(folder)), encoding="utf-8")


def problem(page: Path = PAGE, folder: Path = FOLDER) -> str | None:
    """Return why the tables are not those of the results, with the remedy; None if they are."""
    text = page.read_text(encoding="utf-8")
    if text != written(text, Study.read(folder)):
        return "docs/study.md has other numbers than docs/study/: run make reference"
    return None


def take(exported: Path, folder: Path = FOLDER) -> None:
    """Take the results of the study from a folder of `fedsweep export parquet`."""
    folder.mkdir(parents=True, exist_ok=True)
    results, curves, ledger = (pd.read_parquet(exported / f"{name}.parquet") for name in EXPORTED)
    results = results[results["sweep"].isin((STUDY, LEARNING_RATES))]
    evaluated = curves["trial_id"].isin(results["trial_id"]) & curves["test_accuracy"].notna()
    kept = {
        "results": results,
        "curves": curves[evaluated][["trial_id", "round", *ACCURACIES]],
        "ledger": ledger[ledger["sweep"].isin((STUDY, LEARNING_RATES))],
        "times": median_times(results[results["sweep"] == STUDY], curves),
    }
    for name, frame in kept.items():
        frame.to_parquet(folder / f"{name}.parquet", index=False, compression="zstd")


def median_times(results: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return the median seconds of the rounds that were trained and not evaluated."""
    kinds = ["normalizer", "local_steps", "phase"]
    plain = curves[curves["test_accuracy"].isna() & ~curves["inherited"].astype(bool)]
    rounds = plain.merge(results[["trial_id", *kinds[:2]]], on="trial_id")
    found = rounds.groupby(kinds)["seconds"].agg(rounds="count", median_seconds="median")
    return found.reset_index()


if __name__ == "__main__":
    take(Path(sys.argv[1]))
    write()
