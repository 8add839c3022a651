"""The queue of runs to reconcile, and the order in which they get their turn."""
