"""Measurements against others in one run. `make bench`; see README.md."""
