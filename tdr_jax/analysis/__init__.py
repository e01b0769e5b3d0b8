"""What a run will need, told before it runs, and what it costs while it does."""
