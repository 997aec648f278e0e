"""The catalog of measures: every number that is stored of a round or of a finished trial.

Table columns, views, comparisons, reports, exports and pages are derived from it. A new measure
needs a field of `trainers.measurements.Round`, the code that computes it, an entry in this catalog,
and a migration that adds its columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

from trainers.measurements import Round

Unit = Literal["fraction", "nats", "number", "bytes", "seconds", "round", "numbers by layer"]

Group = Literal["accuracy", "loss", "clients", "time", ""]


@dataclass(frozen=True)
class Measure:
    """One measure. Its column has the same name in every table and view."""

    name: str
    label: str
    """The measure in words, for tables and figures."""
    unit: Unit
    """A fraction, 0..1, is shown in percent."""
    group: Group = ""
    """Measures of a group are shown together, for example in TensorBoard. Measures of "clients" are
    diagnostics: a value that is not finite is left out. Those of "" are not shown by round."""
    samples: Literal["train", "validation", "test", ""] = ""
    """The samples that it is taken on, for narrow columns."""
    since: int = 1
    """The schema (see `migrations`) that added its columns to the tables and views."""
    lower_is_better: bool = False
    optional: bool = False
    """True if tables and figures show it only after some trial took it."""
    required: bool = False
    """True if every stored round has it."""
    compared: bool = True
    """True if a round that is trained again must have exactly the same value."""
    final: Literal["last", "best", "total", ""] = ""
    """How a finished trial has it: from its last round, from its best round, or summed over rounds.
    "" if only its rounds have it."""
    curve: Literal["arm", "alpha", ""] = ""
    """The lines of the report's figure by round: one per arm, or one per α. "" for no figure."""

    @property
    def scale(self) -> int:
        """Return the factor from the stored number to the one that is shown."""
        return 100 if self.unit == "fraction" else 1

    @property
    def decimals(self) -> int:
        """Return the decimals of a number that is shown."""
        return 2 if self.unit == "fraction" else 4

    @property
    def sign(self) -> str:
        """Return the unit of a number that is shown; "" for a plain number."""
        return {"fraction": "%", "number": ""}.get(self.unit, self.unit)

    @property
    def heading(self) -> str:
        """Return the label with the unit: "test mIoU, %"."""
        return ", ".join(filter(None, [self.label, self.sign]))

    @property
    def short_label(self) -> str:
        """Return the label without its explanation: "best test accuracy"."""
        return self.label.partition(" of ")[0]

    @property
    def short_heading(self) -> str:
        """Return the heading of a narrow column: "test acc."."""
        word = {"accuracy": "acc.", "loss": "loss"}.get(self.group)
        return f"{self.samples} {word}" if word else self.label


CATALOG = (
    Measure(
        "test_accuracy",
        "test accuracy",
        "fraction",
        group="accuracy",
        samples="test",
        final="last",
        curve="arm",
    ),
    Measure(
        "test_loss",
        "test loss",
        "nats",
        group="loss",
        samples="test",
        final="last",
        lower_is_better=True,
    ),
    Measure(
        "validation_accuracy",
        "validation accuracy",
        "fraction",
        group="accuracy",
        samples="validation",
        final="last",
    ),
    Measure(
        "best_test_accuracy",
        "best test accuracy of any round (an oracle)",
        "fraction",
        samples="test",
        final="best",
    ),
    Measure("best_round", "round of the best test accuracy", "round", final="best"),
    Measure("bytes_up", "bytes from the clients", "bytes", final="total", required=True),
    Measure("bytes_down", "bytes to the clients", "bytes", final="total", required=True),
    Measure(
        "seconds", "seconds", "seconds", group="time", final="total", required=True, compared=False
    ),
    Measure(
        "test_miou",
        "test mIoU",
        "fraction",
        group="accuracy",
        samples="test",
        since=2,
        optional=True,
        final="last",
        curve="arm",
    ),
    Measure(
        "mean_client_accuracy",
        "mean of the clients' test accuracies",
        "fraction",
        group="accuracy",
        samples="test",
        since=2,
        optional=True,
        final="last",
    ),
    Measure(
        "worst_client_accuracy",
        "worst client's test accuracy",
        "fraction",
        group="accuracy",
        samples="test",
        since=2,
        optional=True,
        final="last",
        curve="arm",
    ),
    *(
        Measure(
            f"{kind}_own_accuracy",
            label,
            "fraction",
            group="accuracy",
            samples="test",
            since=8,
            optional=True,
            final="last",
        )
        for kind, label in (
            ("mean", "mean own test accuracy of the clients"),
            ("weighted", "mean own test accuracy of the clients, weighed by test images"),
            ("decile", "own test accuracy of the worst tenth of the clients"),
            ("worst", "worst own test accuracy of a client"),
        )
    ),
    Measure(
        "train_loss",
        "training loss",
        "nats",
        group="loss",
        samples="train",
        lower_is_better=True,
        required=True,
    ),
    Measure(
        "validation_loss",
        "validation loss",
        "nats",
        group="loss",
        samples="validation",
        lower_is_better=True,
    ),
    Measure(
        "statistics_mismatch",
        "statistics mismatch",
        "number",
        group="clients",
        since=2,
        lower_is_better=True,
        optional=True,
        curve="alpha",
    ),
    Measure(
        "gradient_deviation",
        "gradient deviation",
        "number",
        group="clients",
        since=2,
        lower_is_better=True,
        optional=True,
        curve="arm",
    ),
    Measure(
        "client_drift",
        "client drift",
        "number",
        group="clients",
        since=2,
        lower_is_better=True,
        optional=True,
        curve="arm",
    ),
    Measure(
        "statistics_mismatch_layers",
        "statistics mismatch of each layer",
        "numbers by layer",
        group="clients",
        since=2,
        lower_is_better=True,
        optional=True,
    ),
)
"""Every measure. Final ones come first, in the order of their columns."""

MEASURES = {measure.name: measure for measure in CATALOG}
"""The catalog by name."""

OF_ROUNDS = tuple(MEASURES[field.name] for field in fields(Round) if field.name in MEASURES)
"""The measures of a round, in the order of `Round`, which is that of their columns."""

IN_CURVES = tuple(measure for measure in OF_ROUNDS if measure.unit != "bytes")
"""The measures of the view `curves`. The bytes of a trial's rounds are all the same."""

OF_TRIALS = tuple(measure for measure in CATALOG if measure.final)
"""The measures of a finished trial, in the order of their columns."""


def _names(measures: tuple[Measure, ...], choose: Callable[[Measure], object]) -> tuple[str, ...]:
    return tuple(measure.name for measure in measures if choose(measure))


FROM_LAST_ROUND = _names(OF_TRIALS, lambda m: m.final == "last")
"""Measures that a trial takes from its last round."""

FROM_ALL_ROUNDS = _names(OF_TRIALS, lambda m: m.final != "last")
"""Measures that a trial takes from its best round, or from all of its rounds."""

COMPARED = ("phase", *_names(OF_ROUNDS, lambda m: m.compared))
"""Columns of a round that are equal, bit for bit, if it is trained again."""

BY_LAYER = _names(OF_ROUNDS, lambda m: m.unit == "numbers by layer")
"""Measures that are a number per layer, stored as JSON."""

DIAGNOSTICS = _names(OF_ROUNDS, lambda m: m.group == "clients")
"""Measures whose values are left out if they are not finite."""

CURVES = _names(CATALOG, lambda m: m.curve)
"""Measures of a round that a report draws, in the order of its figures."""

COMPARABLE = tuple(
    measure.name
    for measure in sorted(OF_TRIALS, key=lambda m: (m.optional, m.lower_is_better))
    if measure.unit in ("fraction", "nats", "number")
)
"""Final measures that a report averages over seeds: those that every trial takes, with accuracies
before losses, then the optional ones."""

OPTIONAL = tuple(name for name in COMPARABLE if MEASURES[name].optional)
"""Those that are shown only after some trial took them."""

_SINGLE = tuple(measure for measure in OF_ROUNDS if measure.unit != "numbers by layer")

BY_GROUP = {
    group: tuple(measure.name for measure in _SINGLE if measure.group == group)
    for group in ("accuracy", "loss", "clients", "time")
}
"""Single numbers of a round, grouped as they are shown."""

SHOWN_BY_ROUND = tuple(
    MEASURES[name] for names in BY_GROUP.values() for name in names if not MEASURES[name].optional
)
"""The measures in a trial's list of rounds, by group."""
