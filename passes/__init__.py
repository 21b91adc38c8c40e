"""The compiler: passes over a captured graph. Imports nothing from `tracer`."""
