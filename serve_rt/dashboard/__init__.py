"""The web page that shows a cluster while it works: applications, replicas, nodes, and plots of their last minutes."""
