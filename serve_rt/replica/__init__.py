"""The process that runs user code: one replica of one deployment."""
