"""The store: etcd's text records as one typed, frozen `Cluster` (mirror), and typed writes back (writer)."""
