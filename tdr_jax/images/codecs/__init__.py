"""How each format of picture files holds its pixels and what travels with them."""
