"""The node agent: its decisions as pure functions, then itself as a real process."""
