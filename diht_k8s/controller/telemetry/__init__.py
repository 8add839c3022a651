"""What the operator tells Prometheus."""
