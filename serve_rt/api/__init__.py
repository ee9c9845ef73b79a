"""Ray Serve's Python API: deployments, applications, run and status."""
