"""The operator without a cluster: its pure parts, and its reconciliations against a cluster in memory."""
