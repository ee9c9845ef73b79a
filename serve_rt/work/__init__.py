"""The cluster's tasks and actors, on the machinery of replicas: `serve.task` and `serve.actor`."""
