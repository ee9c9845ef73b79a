"""The controller: a candidate per agent, one leader in the cluster. Start reading at `loop`, decide in `reconcile`."""
