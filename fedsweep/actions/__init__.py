"""The actions of fedsweep: a function for each command, for the command line and for Python.

An action takes plain values and an open database. It returns plain values, or raises one of
fedsweep's errors. It does not print, and it does not parse options.
"""
