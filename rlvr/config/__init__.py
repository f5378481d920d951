"""Recipes: one frozen pydantic model per section, their rules, and TOML. Imports no torch."""
