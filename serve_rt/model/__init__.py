"""The values the whole runtime speaks in: frozen, without I/O, encodable by `serve_rt.wire.records`."""
