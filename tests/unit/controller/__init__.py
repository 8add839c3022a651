"""The operator without a cluster: its pure parts, and its loop against a cluster in memory."""
