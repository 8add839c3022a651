"""What is done with committed results: open, look up, prune, take down."""
