"""What every room stands on: configuration, ids, records, seeds, processes and devices."""
