"""Run configurations: each file has `get_config(argument string)`."""
