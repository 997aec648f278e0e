"""Our own normalizers, each declared once: its parts, its per-client state, its appearance.

This file imports no torch, so that planning a sweep stays fast. The parts are functions of
`trainers.normalizers`, which explains them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Keeps = Literal["nothing", "statistics", "layer", "mix"]

KEPT: dict[Keeps, str] = {
    "nothing": "–",
    "statistics": "statistics",
    "layer": "γ, β, statistics",
    "mix": "the mixture",
}
"""The state that stays with each client, in words."""


@dataclass(frozen=True)
class Colors:
    """The colors of a normalizer's lines, by the ground that they are drawn on.

    Each is one color, or several that go from T* = 0 to T* = T.
    """

    figure: tuple[str, ...]
    """In the figures of a report, on white."""
    light: tuple[str, ...]
    """On a light page."""
    dark: tuple[str, ...]
    """On a dark page."""


@dataclass(frozen=True)
class OwnNormalizer:
    """One of our own normalizers."""

    name: str
    layer: str
    """The function that makes its layer."""
    colors: Colors
    activations: str
    """The statistics by which it normalizes activations, in words."""
    averaged: str
    """The state that the server averages, in words."""
    tested: str
    """The statistics of a test, in words."""
    convolution: str = "leave"
    """The function that reparametrizes a convolution."""
    keeps: Keeps = "nothing"
    """The part that stays with each client: see `KEPT`."""
    central_twin: str = ""
    """The normalizer that it is equal to if there is only one client; "" for itself."""
    repeats: bool = False
    """True if a local step goes through the model twice, so that the model may not draw dropout."""


def _colors(figure: str, light: str, dark: str) -> Colors:
    return Colors((figure,), (light,), (dark,))


# Ramps in equal steps of the color difference CIEDE2000: 8 to 9 on white, 6 to 7 on a dark page.
# The lightness falls at each step, so deuteranopes and readers of gray print see the order, too.
_FREEZE_ROUNDS = (
    *("#44D4E2", "#1EBFE2", "#00A9E0", "#0093DE", "#057DDB", "#1466D1"),
    *("#204FC6", "#2E34AE", "#311C82", "#270F52", "#19092E"),
)
_BLUES = Colors(
    figure=_FREEZE_ROUNDS,
    light=_FREEZE_ROUNDS,
    dark=(
        *("#DCF9F8", "#BAF3F6", "#90E8F8", "#72D9FC", "#64C8FF", "#67B7FF"),
        *("#6FA5FF", "#7693FF", "#807FFC", "#8368F8", "#874EF1"),
    ),
)

AS_IN_TRAINING = "as in training"
"""The test of a normalizer without statistics."""
EACH_CLIENT = "each client of the cohort is tested"
"""The test of a normalizer that leaves state with the clients."""

# Okabe and Ito's colors, which the color-blind can tell apart, as far as they go: wn, fedbn, silobn
# and ws have others. On a page, colors are darker or lighter, for contrast with its ground.
OWN = (
    OwnNormalizer(
        "bn",
        "batch_norm",
        _colors("#D55E00", "#D55E00", "#FF8A3D"),
        activations="by batch",
        averaged="γ, β, running mean and variance",
        tested="averaged statistics",
    ),
    OwnNormalizer(
        "fixbn",
        "fixed_batch_norm",
        _BLUES,
        activations="by batch up to round T⋆, then by the frozen statistics",
        averaged='as `bn`; after T⋆, statistics are constant, and with `freeze = "layer"` γ and β',
        tested="frozen statistics",
        central_twin="bn",
    ),
    OwnNormalizer(
        "gn",
        "group_norm",
        _colors("#009E73", "#007A5A", "#2FC79A"),
        activations="by sample, over groups of channels",
        averaged="γ, β",
        tested=AS_IN_TRAINING,
    ),
    OwnNormalizer(
        "ln",
        "layer_norm",
        _colors("#CC79A7", "#B3588F", "#E2A3CB"),
        activations="by sample, over all channels",
        averaged="γ, β",
        tested=AS_IN_TRAINING,
    ),
    OwnNormalizer(
        "in",
        "instance_norm",
        _colors("#E69F00", "#B07A00", "#F2BE4B"),
        activations="by sample, over one channel",
        averaged="γ, β",
        tested=AS_IN_TRAINING,
    ),
    OwnNormalizer(
        "wn",
        "shift",
        _colors("#6A3D9A", "#6A3D9A", "#B793E0"),
        convolution="weight_norm",
        activations="– (weights: g·v/‖v‖)",
        averaged="g, v, β",
        tested=AS_IN_TRAINING,
    ),
    OwnNormalizer(
        "none",
        "shift",
        _colors("#888888", "#6b6b6b", "#a8a8a8"),
        activations="–",
        averaged="β",
        tested=AS_IN_TRAINING,
    ),
    OwnNormalizer(
        "fedbn",
        "batch_norm",
        _colors("#8C2D04", "#8C2D04", "#E07B4F"),
        activations="by batch",
        averaged="–",
        tested=EACH_CLIENT,
        keeps="layer",
        central_twin="bn",
    ),
    OwnNormalizer(
        "silobn",
        "batch_norm",
        _colors("#E31A9C", "#C2157F", "#FF6DBB"),
        activations="by batch",
        averaged="γ, β",
        tested=EACH_CLIENT,
        keeps="statistics",
        central_twin="bn",
    ),
    OwnNormalizer(
        "ws",
        "shift",
        _colors("#A3A500", "#7C7D00", "#D0D150"),
        convolution="standardize_weight",
        activations="– (weights standardized, gradients clipped by row: FedWon)",
        averaged="g, W, β",
        tested=AS_IN_TRAINING,
    ),
    OwnNormalizer(
        "fbn",
        "federated_batch_norm",
        _colors("#7F3C00", "#7F3C00", "#C98A4B"),
        activations="by the server's statistics, which are constant in a round",
        averaged="γ, β; the statistics of all local batches move the server's by a tenth",
        tested="the server's statistics",
    ),
    OwnNormalizer(
        "hbn",
        "hybrid_batch_norm",
        _colors("#4D4D9A", "#4D4D9A", "#9C9CE6"),
        activations="by a mixture of batch and server, learned per channel",
        averaged="γ, β; mixed statistics of one batch per client move the server's by 0.002",
        tested="such statistics of the new average, for all clients",
        keeps="mix",
    ),
    OwnNormalizer(
        "fedtan",
        "joint_batch_norm",
        _colors("#17A2B8", "#0B7285", "#5FD3E3"),
        activations="by the batches of all clients in a round's first step, then by batch",
        averaged="as `bn`",
        tested="averaged statistics",
        central_twin="bn",
        repeats=True,
    ),
)
"""All of them, in the order of columns and lines."""

REPEATING = tuple(own.name for own in OWN if own.repeats)
"""Those that go through the model twice in a local step."""
