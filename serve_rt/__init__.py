"""Ray Serve's architecture and API without Ray."""
