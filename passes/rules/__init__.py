"""Rewrite rules, one theme a module; each module lists its own in `RULES`."""
