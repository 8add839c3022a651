"""Types of Kubernetes that run documents take over: pods' objects and quantities."""
