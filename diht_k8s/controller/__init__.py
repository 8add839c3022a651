"""The operator, which observes runs and their pods, plans, and acts."""
