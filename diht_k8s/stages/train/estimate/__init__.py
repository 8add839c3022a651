"""The estimate of a training before it is submitted: memory of a rank, time, advice."""
