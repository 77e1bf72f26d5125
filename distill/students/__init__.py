"""One file a student architecture: a step that puts a new student in the place of the given one."""
