"""Training: one loop, one jitted step, exact resume."""
