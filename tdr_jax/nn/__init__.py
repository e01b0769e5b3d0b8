"""What networks are made of: layers, blocks and operations on NHWC arrays."""
