"""Logs (and later metrics and traces) of every process of the runtime."""
