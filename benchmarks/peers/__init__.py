"""What users would pick instead of kafkasaga, at the same work: see README.md."""
