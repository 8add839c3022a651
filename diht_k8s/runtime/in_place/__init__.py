"""Restarts in place: the ranks of a gang start again in their living pods, round by round."""
