"""The adaptive search of the best freeze round of an arm.

- `choice` decides what to try next: a pure function of a history.
- `surrogate` models the accuracy over T*.
- `planner` reads histories from the store and plans the chosen trials. An idle worker calls it, so
  there is no controller that could fail.
- `pruning` finds probes that cannot win.
- `export` writes a study for the tools of Optuna.
"""

from fedsweep.search.choice import (
    AddSeed,
    Estimate,
    Probe,
    Space,
    Stop,
    Try,
    Wait,
    estimate,
    propose,
)

__all__ = [
    "AddSeed",
    "Estimate",
    "Probe",
    "Space",
    "Stop",
    "Try",
    "Wait",
    "estimate",
    "propose",
]
