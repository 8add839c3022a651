"""The Kubernetes API: one client and reduced summaries of its objects."""
