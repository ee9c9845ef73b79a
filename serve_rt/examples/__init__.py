"""Applications to start from: `serve run serve_rt.examples.<name>:app`. They use the public face only."""
