"""Teachers into students: data, fine-tuning, student architectures, losses, the trainer."""
