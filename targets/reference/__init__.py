"""The target that runs graphs with the ops' own definitions."""
