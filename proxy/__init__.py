"""The HTTP front of a node: an ASGI application on uvicorn that forwards to replicas. Import it as serve_rt.proxy."""
