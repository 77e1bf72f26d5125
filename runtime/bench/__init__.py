"""Fair speed comparisons: every system in its own process, interleaved rounds, paired ratios. No torch."""
