"""Study to Plan: axes, runs, shared pretrainings, bundles, datasets looked up, budget, run ids. Pure; no torch."""
