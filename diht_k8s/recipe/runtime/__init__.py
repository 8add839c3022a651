"""What every stage shares: ranks, progress lines, signals, commit markers."""
