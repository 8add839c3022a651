"""Parts that all stages share: ranks, progress lines, signals, commit markers."""
