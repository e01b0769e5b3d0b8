"""Training objectives, one a file: `loss(params, batch, rng)` and `predict(params, batch)`."""
