"""The store of all runs: layout, atomic writes, leases, attempts, curves, status."""
