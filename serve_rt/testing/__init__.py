"""Fakes that ship: what tests of this runtime and of programs on it use in place of the real part."""
