"""The node's stable parent: holds sockets, forks, reaps and remembers. Start reading at `main`, then `front`."""
