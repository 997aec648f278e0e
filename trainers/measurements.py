"""The measurements of a round, as plain numbers. Imports no torch: a store reads them too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ClientScore:
    """The test accuracy (0..1) of one client on its own class mix, and its training samples.

    Its accuracy on its own test images, and their number, are None if the data have none of it.
    """

    client: int
    samples: int
    test_accuracy: float
    own_accuracy: float | None = None
    own_samples: int | None = None


@dataclass(frozen=True)
class Round:
    """The measurements of one round. None stands for a measurement that the round did not take.

    Losses are mean cross-entropies in nats. Accuracies and IoU are fractions, 0..1. Each client is
    tested on its own class mix, and the mean of their accuracies is not weighed. The diagnostics
    are explained in `trainers.diagnostics`.
    """

    round: int
    phase: str
    """"explore" until the statistics are frozen, "calibrate" afterwards."""
    train_loss: float
    """The clients' mean over their local steps, weighed by training samples."""
    test_loss: float | None = None
    """Loss on the test set."""
    test_accuracy: float | None = None
    """Accuracy on the test set."""
    validation_loss: float | None = None
    """Loss on the samples that are held back."""
    validation_accuracy: float | None = None
    """Accuracy on the samples that are held back."""
    bytes_up: int = 0
    """Bytes that the cohort sends: the shared state, and its velocity if momentum is global. They
    are the same in every round. What is frozen is counted too."""
    bytes_down: int = 0
    """Bytes that the cohort receives."""
    seconds: float = 0.0
    """Wall time."""
    test_miou: float | None = None
    """Mean intersection over union of the classes, for road scenes."""
    mean_client_accuracy: float | None = None
    """Mean over the clients of their accuracies on their own class mixes."""
    worst_client_accuracy: float | None = None
    """The lowest of these accuracies."""
    statistics_mismatch: float | None = None
    """Distance of the clients' running statistics from their average, as a mean over layers. None
    without running statistics."""
    gradient_deviation: float | None = None
    """Relative distance of the averaged local gradient from the central one. None if layers stay
    with the clients: then there is no common model to compare with."""
    client_drift: float | None = None
    """Relative distance of the clients' parameters from their average after the local steps."""
    statistics_mismatch_layers: Mapping[str, float] | None = None
    """The statistics mismatch of each layer, as JSON."""
    mean_own_accuracy: float | None = None
    """Mean over the clients of their accuracies on their own test images."""
    weighted_own_accuracy: float | None = None
    """The same mean, weighed by the clients' test images."""
    decile_own_accuracy: float | None = None
    """The same mean over the tenth of the clients, rounded up, that has the lowest accuracies."""
    worst_own_accuracy: float | None = None
    """The lowest accuracy of a client on its own test images."""
    clients: tuple[ClientScore, ...] = ()
    """All clients, or the cohort if clients have models of their own."""
