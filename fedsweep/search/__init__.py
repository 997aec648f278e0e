"""The best freeze round of an arm, found adaptively.

`choice` decides purely, from a history; `surrogate` is what it believes of accuracy over T*; `ask`
reads histories from the store and plans what was chosen, whenever a worker has nothing better to
do: there is no controller to die. `export` writes a study for Optuna's own tools.
"""

from fedsweep.search.choice import AddSeed, Answer, Probe, Space, Stop, Try, Wait, answer, propose

__all__ = [
    "AddSeed",
    "Answer",
    "Probe",
    "Space",
    "Stop",
    "Try",
    "Wait",
    "answer",
    "propose",
]
