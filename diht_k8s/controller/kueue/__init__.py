"""One Workload of Kueue for each stage of a run (`pods.queueing: PerRun`): its place in the queue and its quota."""
