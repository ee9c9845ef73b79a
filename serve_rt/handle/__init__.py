"""Calls to deployments from drivers and from other deployments."""
