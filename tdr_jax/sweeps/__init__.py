"""Many runs of one config: planned, started, ranked."""
