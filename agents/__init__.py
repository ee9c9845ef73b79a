"""The node agent: makes one machine run its assignments. Start reading at `main`, then `agent`, then `supervisor`."""
