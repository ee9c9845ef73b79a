"""The node's stable parent process: forks everything that runs here and outlives its agent."""
