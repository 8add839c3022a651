"""Stored features of a locked image tower (`train.features: Stored`): what they are of, how they are made and read."""
