"""Speed against peers and limits, each pair measured in one run; `python -m benchmarks` runs the short form of all."""
