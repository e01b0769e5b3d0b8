"""From pictures on disk to batches: `sources` finds and decodes them, `pipeline` makes examples."""
