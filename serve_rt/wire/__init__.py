"""Values to bytes and back: records (JSON, for etcd and the control plane), services and errors over gRPC."""
