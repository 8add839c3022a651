"""The operator: observes runs and their pods, plans, acts."""
