"""The queue of runs to reconcile: which waits, and whose turn it is."""
