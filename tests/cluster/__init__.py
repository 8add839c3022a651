"""The tier on a real Kubernetes: the cluster itself (scripts), its fixtures and its tests."""
