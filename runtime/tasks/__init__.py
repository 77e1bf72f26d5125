"""One file a task: text in, arrays, typed answer; and the metric that judges it."""
