"""Planners behind other people's interfaces: benchmarks and simulators."""
