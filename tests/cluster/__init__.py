"""Real clusters on one machine: real agents, real etcd, real faults, counted losses."""
