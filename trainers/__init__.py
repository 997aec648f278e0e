"""FedAvg trials as plain functions of a configuration and a data set.

This package knows tensors. It knows nothing of databases, processes or the command line.
"""
