"""What the build writes down (cpp_ops/python/CMakeLists.txt)."""

TORCH: str
