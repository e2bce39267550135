"""Many messages submitted together as lines of JSON: stored in segments, run by the engine, results in input order."""
