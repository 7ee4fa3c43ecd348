"""The scripts behind every figure of the README."""
