"""What changes ultrasound images on purpose: the mathematics on batches, and the policy that puts it together."""
