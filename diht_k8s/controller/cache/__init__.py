"""The operator's cache of the cluster: runs, Jobs and pods, listed in pages and then watched."""
