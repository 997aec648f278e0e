"""`python -m fedsweep`."""

from fedsweep.cli import main

main()
