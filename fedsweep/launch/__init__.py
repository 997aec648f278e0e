"""Workers that a scheduler starts: `fedsweep launch`.

A scheduler (Slurm, Ray) places the workers, and starts them again after a preemption, a time limit
or the death of a node. Each worker claims trials from the database like any other. A launch has a
folder with its logs and, readable by its user alone, the database's URL.
"""
