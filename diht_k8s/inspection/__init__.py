"""Inspection before a run: a profile of the data set, a held-out split, checks of storage and of the run document."""
