"""What every room stands on: configuration, ids, records, seeds, provenance, processes and devices."""
