"""Plan to Ray: trials, worker groups, elasticity, preemption, and the work done in each worker."""
