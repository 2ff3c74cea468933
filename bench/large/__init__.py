"""What many CRs cost that do not change: `python -m bench.large`. Next on the way: `bench.large.course`."""
