"""An open-loop load generator and a checker that counts what was lost. `python -m tests.load --help` runs it alone."""
