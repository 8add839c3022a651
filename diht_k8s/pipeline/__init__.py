"""Pure planning: what a run needs next, given what is observed."""
