"""What a training needs: memory of a rank, FLOPs, time; computed before anything is submitted."""
