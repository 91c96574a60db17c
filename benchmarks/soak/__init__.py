"""Ten minutes of mixed traffic with faults: nothing may be lost and nothing may grow."""
