"""Plan, run and read sweeps of federated-learning trials."""

__version__ = "0.1.0"
